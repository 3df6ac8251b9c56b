"""`python -m cai`."""

from cai.cli import main

main()
