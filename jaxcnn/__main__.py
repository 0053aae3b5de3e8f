"""``python -m jaxcnn``."""

from jaxcnn.cli.main import main

if __name__ == "__main__":
    main()
