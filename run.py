"""Entry point of a checkout: python run.py model=detr method=ours_abs"""

from hetexp.cli import main

if __name__ == "__main__":
    main()
