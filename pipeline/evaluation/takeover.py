"""Published weights instead of a training: converted into this project's format, with what evaluation reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.evidence.table import prior_of
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.files import atomic_folder, users_file
from pipeline.models import pretrained
from pipeline.models.build import make_model, save_trained
from pipeline.models.clip import split_clip
from pipeline.models.foreign.checkpoints import fne_towers, npc_clip, read_checkpoint, recognise
from pipeline.models.pretrained import Pretrained
from pipeline.params import ModelParams, Params
from pipeline.paths import BASE, EVIDENCE, FEATURES, LAST, SPLIT, TRAINED
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from pipeline.runtime.processes import own_device
from pipeline.sampling.statistics import SimilarityStatistics
from pipeline.training.record import write_training
from pipeline.training.untrained import update_by_split

FAMILIES = {"fne": "vit_bert", "npc": "clip"}


def convert(path: str, base_folder: Path, model: ModelParams) -> tuple[Pretrained, ModelParams, dict[str, Any]]:
    """A published checkpoint's towers, the model parameters of their training, and what else the checkpoint says.

    Args:
        path: FNE's `model_best.pth.tar` or NPC's `*.pt`, relative to the main repository.
        base_folder: towers of the same architecture, for configuration and tokenizer.
        model: section `model`.

    Raises:
        InputError: naming the file, when it is neither of these, or does not fit the base or `model.family`.
    """
    place = users_file(path, "model.weights")
    if model.train != "towers":
        raise InputError(f"model.weights = {path!r}: holds whole towers; model.train must be towers")
    if model.width is not None:
        raise InputError(
            f"model.width = {model.width}: adds projections with random weights to model.weights; use null"
        )
    checkpoint = read_checkpoint(place)
    base = pretrained.load(base_folder)
    try:
        kind = recognise(checkpoint)
        if FAMILIES[kind] != model.family:
            raise InputError(f"{kind.upper()}'s towers need model.family {FAMILIES[kind]}, found {model.family}")
        if kind == "fne":
            image, text = fne_towers(checkpoint.weights, base_folder)
            made = dataclasses.replace(base, image=image, text=text)
            model = model.model_copy(update={"pooling": "mean_all"})  # FNE's training
        else:
            clip_image, clip_text, logit_scale = split_clip(npc_clip(checkpoint.weights))
            made = dataclasses.replace(base, image=clip_image, text=clip_text, logit_scale=logit_scale)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return made, model, {"kind": kind, **checkpoint.record}


def take_over(params: Params, key: str) -> str:
    """Write the outputs of stage train from `model.weights`; returns a line about it.

    Raises:
        InputError: as for `convert`, before anything is written.
    """
    assert params.model.weights is not None
    made, model, origin = convert(params.model.weights, BASE, params.model)
    inputs = open_inputs(model, FEATURES, SPLIT, "val")
    matching = make_model(made, model).to(own_device())
    image_ND, text_MD = encode_split(matching, inputs, params.evaluate.batch_size)
    statistics = SimilarityStatistics(params.sampler.statistics)
    update_by_split(statistics, image_ND, text_MD, inputs.caption_image, params)  # a checkpoint holds none
    found = recalls(*retrieval_ranks(image_ND, text_MD, inputs.caption_image))
    with atomic_folder(TRAINED) as trained:
        for folder in (trained, trained / LAST.relative_to(TRAINED)):
            save_trained(folder, matching.cpu(), model, made)
    history = [{"epoch": 0, "step": 0, **{f"val/{name.replace('_', '/')}": value for name, value in found.items()}}]
    moment = {"epoch": 0, "step": 0, "statistics": statistics.as_numbers()}
    prior = prior_of(params.sampler.prior, EVIDENCE)
    settings = params.sampler.model_dump() | {"loss": params.loss.name, "prior": prior}
    write_training(history, {"key": key, "best": moment, "last": moment, "sampler": settings, "published": origin})
    return f"{origin['kind'].upper()}'s published weights: validation rsum {found['rsum']:.1f}"
