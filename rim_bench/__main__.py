"""`python -m rim_bench`, and with it `torchrun -m rim_bench`: the same as `rim-bench`."""

from rim_bench.cli.main import main

main()
