"""`python -m erasure`: the command line, also under accelerate launch."""

from erasure.commandline.main import main

if __name__ == "__main__":
    main()
