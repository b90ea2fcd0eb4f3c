"""`python -m contrast`, which is what torchrun starts."""

from contrast.cli import main

if __name__ == "__main__":
    main()
