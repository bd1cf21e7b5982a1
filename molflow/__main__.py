"""python -m molflow"""

from molflow.cli import main

main()
