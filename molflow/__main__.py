"""`python -m molflow` and `torchrun -m molflow` are the command line."""

from molflow.cli import main

if __name__ == "__main__":
    main()
