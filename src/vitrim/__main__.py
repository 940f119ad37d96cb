"""`python -m vitrim`, and `torchrun -m vitrim` for several processes."""

from .cli import app

app()
