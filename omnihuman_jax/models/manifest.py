"""`model.json`: what a model directory says about itself, and the networks that it may hold."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from omnihuman_jax.errors import InputError
from omnihuman_jax.models import dit, umt5, vae, wav2vec2

FORMAT = 1
FAMILY = "omnihuman-wan2.1"
FILE = "model.json"
CONFIG_KEY = "omnihuman_config"  # in the metadata of a safetensors file: the config of its network
# Wan2.1's own defaults (research/peers.md 3.7); a distilled model states others.
SAMPLING: Mapping[str, float] = {"steps": 50, "shift": 5.0, "guidance": 5.0, "fps": 16}

Weights = Literal["orbax", "safetensors"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A network that a model directory may hold."""

    config: type
    network: Any
    names: Any  # the module with its `torch_rules` and `recognise`


KINDS: Mapping[str, Kind] = {
    "dit": Kind(dit.DiTConfig, dit.OmniHumanDiT, dit),
    "vae": Kind(vae.VAEConfig, vae.CausalVAE, vae),
    "text_encoder": Kind(umt5.UMT5Config, umt5.UMT5Encoder, umt5),
    "audio_encoder": Kind(wav2vec2.Wav2Vec2Config, wav2vec2.Wav2Vec2Encoder, wav2vec2),
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `model.json` says. `configs` and `weights` by network; `tokenizer` "umt5", "byt5" or None."""

    configs: Mapping[str, Any]
    weights: Mapping[str, Weights]
    tokenizer: str | None = None
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(SAMPLING))
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def encode(self) -> bytes:
        networks = {
            name: {"weights": self.weights[name], "config": dataclasses.asdict(config)}
            for name, config in self.configs.items()
        }
        content = dict(
            format=FORMAT, family=FAMILY, networks=networks, tokenizer=self.tokenizer,
            sampling=dict(self.sampling), provenance=dict(self.provenance),
        )  # fmt: skip
        return (json.dumps(content, indent=2) + "\n").encode()

    @staticmethod
    def decode(encoded: bytes, where: str) -> "Manifest":
        """Raises: InputError: not ours, of another version, or with settings we do not know."""
        try:
            content = json.loads(encoded)
            version, family, networks = (content[key] for key in ("format", "family", "networks"))
        except (ValueError, KeyError, TypeError) as why:
            raise InputError(
                f"{where} is not the manifest of a model directory ({why!r})."
            ) from why
        if version != FORMAT or family != FAMILY:
            raise InputError(
                f"{where} has format {version} of family {family!r}; this version reads format "
                f"{FORMAT} of {FAMILY!r}. Convert the model again, or use the version that wrote it."
            )
        if odd := sorted(networks.keys() - KINDS.keys()):
            raise InputError(f"{where} names the networks {odd}; known are {', '.join(KINDS)}.")
        return Manifest(
            configs={
                name: from_json(KINDS[name].config, entry.get("config", {}), f"{where}, {name}")
                for name, entry in networks.items()
            },
            weights={name: entry.get("weights", "orbax") for name, entry in networks.items()},
            tokenizer=content.get("tokenizer"),
            sampling=content.get("sampling", dict(SAMPLING)),
            provenance=content.get("provenance", {}),
        )


def from_json(config: type, values: Mapping[str, Any], where: str) -> Any:
    """A config from its json: lists become tuples, nested configs too; unknown names are refused."""
    fields = {field.name for field in dataclasses.fields(config)}
    if odd := sorted(values.keys() - fields):
        raise InputError(
            f"{where}: {config.__name__} has no {', '.join(odd)}; it has {', '.join(sorted(fields))}."
        )
    hints = typing.get_type_hints(config)
    try:
        return config(**{k: _typed(hints[k], v, f"{where}, {k}") for k, v in values.items()})
    except InputError:
        raise
    except (TypeError, ValueError) as why:
        raise InputError(f"{where}: {why}") from why


def _typed(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    nested = [option for option in options if dataclasses.is_dataclass(option)]
    if isinstance(value, Mapping) and nested:
        return from_json(typing.cast(type, nested[0]), value, where)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
