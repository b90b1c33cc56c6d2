"""What the machine can do, asked once and in one place."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for products in bfloat16, so that they are faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


def has_matrix_units(device: torch.device) -> bool:
    """Return whether products in bfloat16 have units of their own, such as AMX, that multiply whole tiles at once."""
    tiles = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    return tiles and has_bfloat16(device)
