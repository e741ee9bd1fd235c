"""`python -m erasure`: the command line, also under accelerate launch."""

from erasure.cli import main

if __name__ == "__main__":
    main()
