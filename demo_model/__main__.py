"""`python -m demo_model`: train the demo model and write `demo_model/weights` (see `train`)."""

from demo_model.train import main

main()
