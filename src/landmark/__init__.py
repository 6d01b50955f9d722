"""What the steps share: one idea per file."""

import os

# Albumentations asks the network for a newer version at every import; off-line that is a wait and a warning.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
