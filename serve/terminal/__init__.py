"""`r1-serve chat`: a chat in the terminal with a running server.

`session` is the chat between a person and a server, `piped` the one question of a script. What is
said and set (`conversation`, `options`, `slash`), what comes back (`reply`) and how it is laid out
(`wrap`) is pure; `client` alone talks HTTP, `prompt` alone imports prompt-toolkit, `screen` writes.
"""
