"""The process in which bench/activations.py times thingsvision: an environment of its own, which needs nothing of ours.

python bench/thingsvision_pass.py FOLDER LAYERS BATCH REPEATS

FOLDER holds images.npy (preprocessed) and weights.pt of torchvision's ResNet-18; features.npz is written there, and
the processor's seconds of each extraction are printed as JSON.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torchvision
from thingsvision import get_extractor_from_model


def main(folder: Path, layers: list[str], batch: int, repeats: int) -> None:
    """Extract once to warm up, then time `repeats` extractions."""
    torch.set_num_threads(1)
    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    extractor = get_extractor_from_model(network, device="cpu", backend="pt")
    batches = torch.from_numpy(np.load(folder / "images.npy", allow_pickle=False)).split(batch)

    def extract() -> dict[str, np.ndarray]:
        features: dict[str, np.ndarray] = extractor.extract_features(
            batches, module_names=layers, flatten_acts=True, output_type="ndarray"
        )
        return features

    np.savez(folder / "features.npz", **extract())
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        extract()
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": seconds, "thingsvision": version("thingsvision"), "torch": torch.__version__}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4]))
