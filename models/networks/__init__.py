"""Encoders and decoders: every module here is imported when a registry is first read."""

from models.networks.protocol import Encoder, decoders, encoders

__all__ = ["Encoder", "decoders", "encoders"]
