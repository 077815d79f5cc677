"""What is asked of the CUDA driver, heard by one that is none."""

import ctypes
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernels.host import compiler

from ecocore.errors import KernelUnavailable
from ecocore.kernels.device import CudaDevice, Grid, LaunchAttribute, LaunchConfig, Limits, find_driver


class FakeDriver:
    """Answers as a driver with one H200 would, and writes down what it was asked."""

    def __init__(self, *, failing: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.contexts = 0
        self.attributes = {75: 9, 76: 0, 16: 132, 97: 232448}
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, *arguments))
            if name == self._failing:
                return 209
            # cuInit is answered by cu_init, if there is one.
            answer = getattr(type(self), re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower(), None)
            if answer is not None:
                answer(self, *arguments)
            return 0

        return call

    def cu_device_primary_ctx_retain(self, context: Any, _device: Any) -> None:
        context._obj.value = 0xC0

    def cu_device_get_attribute(self, value: Any, number: int, _device: Any) -> None:
        value._obj.value = self.attributes[number]

    def cu_ctx_push_current_v2(self, context: Any) -> None:
        assert context.value == 0xC0
        self.contexts += 1

    def cu_ctx_pop_current_v2(self, _context: Any) -> None:
        self.contexts -= 1

    def cu_module_load_data(self, module: Any, _cubin: bytes) -> None:
        assert self.contexts == 1
        module._obj.value = 0xD0

    def cu_module_get_function(self, function: Any, module: Any, _name: bytes) -> None:
        assert module.value == 0xD0
        function._obj.value = 0xF0

    def cu_get_error_string(self, _status: int, text: Any) -> None:
        text._obj.value = b"no kernel image is available for execution on the device"

    def cu_launch_kernel_ex(self, config: Any, function: Any, parameters: Any, extra: None) -> None:
        assert self.contexts == 1
        assert function.value == 0xF0
        self.config = config._obj
        self.cluster = tuple(config._obj.attributes[0].cluster)
        self.argument = ctypes.cast(parameters[0], ctypes.POINTER(ctypes.c_uint64))[0]


class One(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint64),)


def stream_of(index: int) -> int:
    return 0x50 + index


def test_a_device_tells_what_it_can_do() -> None:
    driver = FakeDriver()
    assert CudaDevice(3, driver, stream_of).limits == Limits((9, 0), 132, 232448)
    assert Limits((9, 0), 132, 232448).architecture == "sm_90"
    assert Limits((12, 1), 48, 101376).architecture == "sm_121"
    (asked,) = [call for call in driver.calls if call[0] == "cuDeviceGet"]
    assert asked[2] == 3


def test_a_function_is_loaded_into_torch_s_context_and_may_use_shared_memory() -> None:
    driver = FakeDriver()
    function = CudaDevice(0, driver, stream_of).load(b"cubin", "sample", shared_bytes=232448)
    assert function.value == 0xF0
    names = [call[0] for call in driver.calls]
    assert names[-5:] == [
        "cuCtxPushCurrent_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuCtxPopCurrent_v2",
    ]
    assert driver.calls[-2][2:] == (8, 232448)
    assert driver.calls[-3][3] == b"sample"


@pytest.mark.parametrize(("cluster", "attributes"), [(1, 0), (6, 1)])
def test_a_launch_goes_to_torch_s_stream(cluster: int, attributes: int) -> None:
    driver = FakeDriver()
    gpu = CudaDevice(2, driver, stream_of)
    gpu.launch(gpu.load(b"", "sample", shared_bytes=1), Grid(48, 1024, cluster, 90000), One(77))
    config = driver.config
    assert (tuple(config.grid), tuple(config.block), config.shared_bytes) == ((48, 1, 1), (1024, 1, 1), 90000)
    assert (config.stream, config.num_attributes, driver.cluster) == (0x52, attributes, (cluster, 1, 1))
    assert (config.attributes[0].id, driver.argument, driver.contexts) == (4, 77, 0)


@pytest.mark.parametrize("failing", ["cuInit", "cuModuleLoadData", "cuLaunchKernelEx"])
def test_what_the_driver_refuses_is_told_in_its_words(failing: str) -> None:
    driver = FakeDriver(failing=failing)

    def launch() -> None:
        gpu = CudaDevice(1, driver, stream_of)
        gpu.launch(gpu.load(b"", "sample", shared_bytes=1), Grid(1, 1, 1, 0), One(0))

    with pytest.raises(KernelUnavailable, match=f"{failing} failed on cuda:1: no kernel image"):
        launch()
    assert driver.contexts == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_a_machine_without_a_driver_says_so() -> None:
    with pytest.raises(KernelUnavailable, match=r"driver is absent|not built for CUDA"):
        find_driver()


def test_a_torch_for_other_hardware_is_not_mistaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(KernelUnavailable, match="not built for CUDA"):
        find_driver()


@pytest.mark.cxx
@pytest.mark.nvrtc
def test_the_driver_s_structs_are_laid_out_as_its_header_says(tmp_path: Path) -> None:
    spec = find_spec("nvidia")
    assert spec is not None
    folders = [path.parent for folder in spec.submodule_search_locations or () for path in Path(folder).glob("*/include/cuda.h")]
    names = {
        "sizeof(CUlaunchAttribute)": ctypes.sizeof(LaunchAttribute),
        "offsetof(CUlaunchAttribute, value)": LaunchAttribute.cluster.offset,
        "sizeof(CUlaunchConfig)": ctypes.sizeof(LaunchConfig),
        "offsetof(CUlaunchConfig, blockDimX)": LaunchConfig.block.offset,
        "offsetof(CUlaunchConfig, sharedMemBytes)": LaunchConfig.shared_bytes.offset,
        "offsetof(CUlaunchConfig, hStream)": LaunchConfig.stream.offset,
        "offsetof(CUlaunchConfig, attrs)": LaunchConfig.attributes.offset,
        "offsetof(CUlaunchConfig, numAttrs)": LaunchConfig.num_attributes.offset,
        "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION": 4,
        "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": 16,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
        "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 97,
        "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": 8,
    }
    source = tmp_path / "layout.cpp"
    checks = (f'static_assert({name} == {value}, "{name}");' for name, value in names.items())
    source.write_text("\n".join(["#include <cstddef>", "#include <cuda.h>", *checks]), "utf-8")
    subprocess.run([compiler() or "c++", "-std=c++17", "-fsyntax-only", f"-I{folders[0]}", str(source)], check=True, timeout=120)
