"""`python -m data_bridge`."""

from data_bridge.cli import main

if __name__ == "__main__":
    main()
