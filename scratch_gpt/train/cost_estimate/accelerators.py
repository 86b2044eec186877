"""Named accelerators, for estimates: peak FLOP/s, memory and links, each from the vendor's data sheet.

Nothing here is measured. A training loop reaches a fraction of the peak, the model FLOPs utilisation (MFU; Chowdhery et
al. 2022, arXiv:2204.02311), which has to be assumed before it is measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import ScratchError

# Assumed fraction of the peak FLOP/s that a training loop reaches on a GPU; nanoGPT reports 0.4 to 0.5 on an A100, of
# whose peak a smaller one is easier to reach than that of its successors.
MFU = 0.35


@dataclass(frozen=True)
class Accelerator:
    """An accelerator of a data sheet.

    Attributes:
        title: name to print.
        flops: peak of dense matrix multiplication in FLOP/s, in bfloat16 if it has units for it, else in float32.
        memory: in bytes.
        link: to the other accelerators of the machine, in bytes per second and direction.
        source: document that states these.
        bf16: whether it has units for bfloat16.
    """

    title: str
    flops: float
    memory: float
    link: float
    source: str
    bf16: bool = True


# Peaks that data sheets state "with sparsity" are halved, and rates of links "bidirectional" too.
ACCELERATORS = {
    "t4": Accelerator("T4", 8.1e12, 16e9, 16e9, "NVIDIA T4 data sheet (float32; PCIe 3.0 x16)", bf16=False),
    "l4": Accelerator("L4", 121e12, 24e9, 32e9, "NVIDIA L4 data sheet (PCIe 4.0 x16)"),
    "a10g": Accelerator("A10G", 70e12, 24e9, 32e9, "NVIDIA A10G data sheet (PCIe 4.0 x16)"),
    "rtx3090": Accelerator("RTX 3090", 71e12, 24e9, 32e9, "NVIDIA Ampere GA102 white paper (PCIe 4.0 x16)"),
    "rtx4090": Accelerator("RTX 4090", 165e12, 24e9, 32e9, "NVIDIA Ada white paper (PCIe 4.0 x16)"),
    "l40s": Accelerator("L40S", 362e12, 48e9, 32e9, "NVIDIA L40S data sheet (PCIe 4.0 x16)"),
    "a100-40gb": Accelerator("A100 40 GB", 312e12, 40e9, 300e9, "NVIDIA A100 data sheet (SXM, NVLink)"),
    "a100-80gb": Accelerator("A100 80 GB", 312e12, 80e9, 300e9, "NVIDIA A100 data sheet (SXM, NVLink)"),
    "h100": Accelerator("H100", 989e12, 80e9, 450e9, "NVIDIA H100 data sheet (SXM, NVLink)"),
    "h200": Accelerator("H200", 989e12, 141e9, 450e9, "NVIDIA H200 data sheet (SXM, NVLink)"),
    "b200": Accelerator("B200", 2250e12, 180e9, 900e9, "NVIDIA HGX B200 data sheet (NVLink)"),
    "mi300x": Accelerator("MI300X", 1307e12, 192e9, 448e9, "AMD Instinct MI300X data sheet (Infinity Fabric)"),
}
# Those whose times `scratch-gpt plan` estimates if none is named.
COMMON = ("t4", "rtx4090", "a100-80gb", "h100", "h200")


def find_accelerator(name: str) -> Accelerator:
    """Return the accelerator of a name, such as "h100", in capitals or not.

    Raises:
        ScratchError: there is none.
    """
    found = ACCELERATORS.get(name.lower().replace("_", "-").replace(" ", ""))
    if found is None:
        raise ScratchError(f"device is {name}, want one of {', '.join(ACCELERATORS)}")
    return found


def accelerator_of(device_name: str) -> Accelerator | None:
    """Return the accelerator that a driver calls `device_name`, such as "NVIDIA H100 80GB HBM3"; None if unknown."""
    for accelerator in ACCELERATORS.values():
        name = accelerator.title.removesuffix("40 GB").removesuffix("80 GB").strip()  # of the same peak
        if re.search(rf"\b{name}\b", device_name):
            return accelerator
    return None
