"""How r1-serve compares with other ways to serve the same model, in one run.

`shape` makes a model of R1-Distill-Qwen-1.5B's size, `guides_app` is what the common guides show,
`gradio_api` talks to it, `contenders` starts everything, `summary` is the arithmetic, and
`python -m benchmarks.baselines` runs it.
"""
