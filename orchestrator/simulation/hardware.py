"""Figures of GPUs that decide what a step costs.

Peak rates are those of NVIDIA's data sheets: dense bfloat16, SXM boards where there are any. The fractions of them that
programs reach are from published measurements, which no run of Breadth on a GPU has confirmed:

- `compute_efficiency` 0.38 of h100 and h200: torchtitan (docs/performance.md) trains Llama 3.1 8B with FSDP2 on 8 and
  on 128 H100 at 33 % to 39 % MFU in bfloat16, without and with torch.compile.
- `compute_efficiency` 0.55 of a100: torchtitan (the same page in 2024) trains Llama 3 8B with FSDP2 on 64 A100 at 57 %
  MFU.
- `MEMORY_EFFICIENCY`: TensorRT-LLM 0.6.1 (docs/source/performance.md) decodes LLaMA 7B, 128 + 2,048 tokens, at 1,928
  tokens/s on an A100 (FP16, batch 60) and 6,818 on an H100 (FP8, batch 112). The bytes of weights and key-values that
  this reads are 78 % and 74 % of the memory's bandwidth.
- `LINK_EFFICIENCY`, and all of l40s: assumed.
"""

from dataclasses import dataclass

from configs.checks import nearest, require

MEMORY_EFFICIENCY = 0.75
"""Fraction of the memory bandwidth that decoding reaches."""
LINK_EFFICIENCY = 0.8
"""Fraction of a link's rate that a collective reaches."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of a node of eight."""

    name: str
    flops: float
    """Peak FLOP/s, dense bfloat16."""
    memory_bytes: float
    bandwidth: float
    """Peak bytes/s of its memory."""
    link: float
    """Peak bytes/s in one direction to the other GPUs of its node: NVLink, or PCIe where it has none."""
    network: float = 50e9
    """Bytes/s in one direction to other nodes: one 400 Gb/s adapter for each GPU unless said otherwise."""
    compute_efficiency: float = 0.38
    """Fraction of `flops` that training and prefill execute."""

    def interconnect(self, crosses_nodes: bool) -> float:
        """Return the bytes/s that each GPU of a collective sends, inside a node or across nodes."""
        return LINK_EFFICIENCY * (self.network if crosses_nodes else self.link)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="a100-40", flops=312e12, memory_bytes=40e9, bandwidth=1.555e12, link=300e9, network=25e9,
            compute_efficiency=0.55),
        Gpu(name="a100-80", flops=312e12, memory_bytes=80e9, bandwidth=2.039e12, link=300e9, network=25e9,
            compute_efficiency=0.55),
        Gpu(name="h100", flops=989e12, memory_bytes=80e9, bandwidth=3.35e12, link=450e9),
        Gpu(name="h200", flops=989e12, memory_bytes=141e9, bandwidth=4.8e12, link=450e9),
        Gpu(name="l40s", flops=362e12, memory_bytes=48e9, bandwidth=0.864e12, link=32e9, network=12.5e9),
    )
}  # fmt: skip


def gpu_named(name: str) -> Gpu:
    """Return the figures of a GPU. Raises ValueError for an unknown name."""
    require(name in GPUS, "gpu", f"must be one of {', '.join(GPUS)}{nearest(name, GPUS)}", name)
    return GPUS[name]
