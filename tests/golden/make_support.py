"""What the scripts that run models share."""

import torch


def run(model, batch):
    """Logits of each sequence, the loss of each trained target and their mean."""
    logits, losses = [], []
    for sequence in batch:
        ids = torch.tensor([sequence["ids"]])
        out = model(input_ids=ids, use_cache=False).logits[0]
        logits.append(out)
        targets = torch.tensor(sequence["ids"][1:])
        keep = torch.tensor(sequence["mask"][1:])
        losses.append(torch.nn.functional.cross_entropy(out[:-1][keep], targets[keep], reduction="none"))
    losses = torch.cat(losses)
    return logits, losses, losses.mean()


def quantize_projections(model):
    """Replaces every projection's weight by what bitsandbytes' NF4 with double quantisation keeps of it."""
    from bitsandbytes import functional

    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("_proj.weight"):
                packed, state = functional.quantize_4bit(
                    p.data.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
                )
                p.copy_(functional.dequantize_4bit(packed, state).reshape(p.shape))


def greedy(model, ids, count, stop):
    """The most likely continuation, token by token without a cache, and the smallest lead that a choice had."""
    out, lead = [], float("inf")
    with torch.no_grad():
        while len(out) < count and (not out or out[-1] not in stop):
            top = model(input_ids=torch.tensor([ids + out]), use_cache=False).logits[0, -1].topk(2)
            lead = min(lead, float(top.values[0] - top.values[1]))
            out.append(int(top.indices[0]))
    return {"prompt": ids, "tokens": out, "smallest_lead": round(lead, 5)}
