import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # For store_examples, which child processes import too.
