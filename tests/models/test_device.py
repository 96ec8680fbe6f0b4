"""`auto` takes what is there; what was named has to be there."""

import pytest
import torch

from budwood.models import device
from budwood.models.device import Compute, choose_compute


@pytest.fixture
def hardware(monkeypatch):
    """Pretend to have some accelerators, and a processor that multiplies bfloat16 or not, by AMX or by AVX-512."""

    def pretend(*accelerators, bfloat16=False, amx=False, vendor="AuthenticAMD"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in accelerators)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in accelerators)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)  # noqa: ARG005
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(device, "_processor", lambda: f"vendor_id\t: {vendor}\n")

    return pretend


@pytest.mark.parametrize(
    ("accelerators", "expected"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("mps", "cuda"), "cuda")]
)
def test_auto_takes_an_accelerator_where_there_is_one(hardware, accelerators, expected):
    hardware(*accelerators)
    assert choose_compute().device == torch.device(expected)
    assert choose_compute("cpu").device == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_named_device_that_is_not_there_is_refused(hardware, name):
    hardware()
    with pytest.raises(ValueError, match=f"device: '{name}' is not available here; use auto or cpu"):
        choose_compute(name)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
@pytest.mark.parametrize(("multiplies", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_the_hardware_multiplies_it(hardware, name, multiplies, expected):
    hardware("cuda", bfloat16=multiplies)
    assert choose_compute(name).precision == expected
    assert choose_compute(name, "float32").precision == "float32"
    assert choose_compute(name, "bfloat16").precision == "bfloat16"


@pytest.mark.parametrize(("amx", "expected"), [(False, "float32"), (True, "bfloat16")])
def test_on_intel_bfloat16_is_faster_with_amx_alone(hardware, amx, expected):
    hardware(bfloat16=True, amx=amx, vendor="GenuineIntel")
    assert choose_compute("cpu").precision == expected


def test_the_processor_is_named_by_the_system():
    assert device._processor()


def test_metal_computes_in_full_precision(hardware):
    hardware("mps", bfloat16=True)
    assert choose_compute().precision == "float32"


def test_a_compute_knows_its_type_and_its_name():
    cpu = torch.device("cpu")
    assert Compute(cpu, "bfloat16").dtype == torch.bfloat16
    assert Compute(cpu, "float32").dtype == torch.float32
    assert Compute(cpu, "float32").describe() == f"cpu ({torch.get_num_threads()} threads)"
