from __future__ import annotations

import subprocess
import sys


def test_timm_and_torchvision_load_beside_this_torch_in_a_fresh_process() -> None:
    code = (
        "from changenet.torchvision_compat import timm, torchvision, transforms\n"
        "import torch\n"
        "assert transforms.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)\n"
        "assert timm.create_model('test_efficientnet', features_only=True)\n"
        "assert torchvision.tv_tensors.Image(torch.zeros(3, 2, 2)).shape == (3, 2, 2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
