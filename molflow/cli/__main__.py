"""python -m molflow.cli"""

from molflow.cli import main

main()
