"""bergson: its EK-FAC pipeline on the same network as a Hugging Face GPT-2, saved to a temporary folder.

A document of 65 tokens gives the 64 loss terms of a sequence here; the last position has no loss and no
gradient. Labels are sampled, losses summed over tokens, biases included, the damping absolute. Everything
passes through files. Exporting the network and the tokens is not timed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

import harness
import numpy as np
import torch
from bergson import DataConfig, IndexConfig, PreprocessConfig, QuerySetConfig, ScoreConfig
from bergson.config.config import HessianConfig, HessianPipelineConfig, InversionConfig
from bergson.data import load_scores
from bergson.hessians.hessian_approximations import approximate_hessians
from bergson.hessians.pipeline import hessian_pipeline
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

LINEAR = {"attention.qkv": "attn.c_attn", "attention.projection": "attn.c_proj", "up": "mlp.c_fc"}
LINEAR |= {"down": "mlp.c_proj"}
NORMS = {"norm_1": "ln_1", "norm_2": "ln_2"}


def ekfac(problem: harness.Problem, settings: dict[str, Any], stages: harness.Stages) -> np.ndarray:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        _export_model(problem, folder / "model")
        _export_tokens(problem.X, problem.y, folder / "train")
        _export_tokens(problem.Xq, problem.yq, folder / "queries")
        hessian = HessianConfig(
            method="kfac", ev_correction=True, use_dataset_labels=settings["labels"] == "empirical"
        )
        with stages.stage("fit"):
            approximate_hessians(_index(folder, folder / "run" / "hessian" / "kfac"), hessian)
        with stages.stage("scores"):
            hessian_pipeline(
                _index(folder, folder / "run"),
                hessian,
                ScoreConfig(),
                PreprocessConfig(),
                HessianPipelineConfig(
                    query=QuerySetConfig(dataset=str(folder / "queries")),
                    inversion_cfg=InversionConfig(
                        "absolute_damped_inverse", problem.damping, apply_batch_size=len(problem.yq)
                    ),
                    resume=True,
                ),
            )
            return np.array(load_scores(folder / "run" / "scores")[:], dtype=np.float32).T


def _index(folder: Path, run: Path) -> IndexConfig:
    return IndexConfig(
        str(run),
        model=str(folder / "model"),
        data=DataConfig(dataset=str(folder / "train")),
        include_bias=True,
        token_batch_size=4096,
        filter_modules="lm_head",
    )


def _export_tokens(X: torch.Tensor, y: torch.Tensor, path: Path) -> None:
    ids = torch.cat([X, y[:, -1:]], dim=1).tolist()
    Dataset.from_dict({"input_ids": ids, "length": [len(row) for row in ids]}).save_to_disk(str(path))


def _export_model(problem: harness.Problem, path: Path) -> None:
    c = problem.config
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=c["vocabulary"],
            n_positions=4096,
            n_embd=c["width"],
            n_layer=c["depth"],
            n_head=c["heads"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
        )
    )
    own, state = problem.model.state_dict(), model.state_dict()
    state["transformer.wte.weight"], state["lm_head.weight"] = own["tokens.weight"], own["head.weight"]
    state["transformer.wpe.weight"][: c["length"]] = own["positions.weight"]
    for part in ("weight", "bias"):
        state[f"transformer.ln_f.{part}"] = own[f"norm.{part}"]
        for k in range(c["depth"]):
            for here, there in NORMS.items():
                state[f"transformer.h.{k}.{there}.{part}"] = own[f"blocks.{k}.{here}.{part}"]
            for here, there in LINEAR.items():
                value = own[f"blocks.{k}.{here}.{part}"]
                state[f"transformer.h.{k}.{there}.{part}"] = value.T if part == "weight" else value
    model.load_state_dict(state)
    model.save_pretrained(path)
    words = {f"w{i}": i for i in range(c["vocabulary"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", pad_token="w0", model_max_length=4096
    ).save_pretrained(path)


if __name__ == "__main__":
    harness.main({"ekfac": ekfac}, "bergson")
