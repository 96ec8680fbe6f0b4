"""Peak speeds of devices; imports no torch."""

PEAK_FLOPS = {
    "A10G": 70e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A100": 312e12,
    "A800": 312e12,
    "B200": 2.25e15,
    "GH200": 989e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "H800": 989e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 FLOPs per second by the device's name (data sheets, without sparsity)."""
_OTHER_CARDS = {"MIG", "Laptop"}
"""Words in the names of devices that are slower than the card of the same name."""


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 FLOPs per second of a device; none where it is not known.

    Of a card's parts and of its mobile namesakes it is not.
    """
    words = device_name.replace("-", " ").split()
    if not _OTHER_CARDS.isdisjoint(words):
        return None
    known = [name for name in PEAK_FLOPS if _contains(words, name.split())]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def _contains(words: list[str], part: list[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words)))
