#!/usr/bin/env python3
"""Greedy continuations by HuggingFace transformers, for the tests of `archon generate`.

    python tests/golden/make_generation.py [--tokens 40]

Needs torch, transformers (5.x), h5py, numpy; CPU only. For every case whose model predicts tokens
it writes tests/golden/CASE/generation.h5, a token dataset: each sequence of batch.h5 taken as a
prompt, with the model's likeliest continuation behind it (loss_mask 1) and the continuation's
log-probabilities. Prompts go through the model one by one, in float32, without stop tokens. A
continuation ends early where its two likeliest tokens are nearer than rounding may move them.
"""
import argparse
import pathlib

import h5py
import numpy as np
import torch
import transformers

NEAR = 1e-3  # in logits


def continue_prompt(model, prompt, tokens):
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                         max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0,
                         use_cache=True, output_logits=True, return_dict_in_generate=True)
    logits = torch.cat(out.logits)
    best = logits.topk(2).values
    near = torch.nonzero(best[:, 0] - best[:, 1] < NEAR)
    count = int(near[0]) if len(near) else tokens
    chosen = out.sequences[0, len(prompt):][:count]
    return chosen.numpy(), logits[:count].double().log_softmax(1).gather(1, chosen[:, None])[:, 0].numpy()


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--tokens", type=int, default=40)
    arguments = parser.parse_args()
    for folder in sorted(pathlib.Path(__file__).parent.glob("*/")):
        if not (folder / "model/generation_config.json").exists():
            continue
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32,
                                                                  attn_implementation="eager").eval()
        with h5py.File(folder / "batch.h5") as batch:
            ids, offsets = batch["input_ids"][:], batch["cu_seqlens"][:]
        tokens, log_probs, mask, ends = [], [], [], [0]
        for begin, end in zip(offsets, offsets[1:]):
            completion, values = continue_prompt(model, ids[begin:end].tolist(), arguments.tokens)
            tokens += [ids[begin:end], completion]
            log_probs += [np.zeros(end - begin), values]
            mask += [np.zeros(end - begin), np.ones(len(completion))]
            ends.append(ends[-1] + end - begin + len(completion))
        with h5py.File(folder / "generation.h5", "w") as out:
            out["input_ids"] = np.concatenate(tokens).astype(np.int32)
            out["cu_seqlens"] = np.array(ends, np.int64)
            out["loss_mask"] = np.concatenate(mask).astype(np.uint8)
            out["logprobs"] = np.concatenate(log_probs).astype(np.float32)
        print(folder.name, [int(m.sum()) for m in mask[1::2]])


if __name__ == "__main__":
    main()
