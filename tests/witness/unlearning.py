"""Makes what the unlearning methods are compared with: PyTorch, in float64, on the small classifier of gradients.py.

    python unlearning.py            writes unlearning.json beside itself
    python unlearning.py --check    makes it again and fails where the stored values differ

README.md beside this file says what is computed.
"""

import argparse
import json
import sys
import warnings

import numpy as np
import torch
import torch.nn.functional as F

from gradients import HERE, SMALL_RELUS, SmallCnn, away_from_kinks, differences, encode, filled, images, labels, summary

FORGET = 2
SAMPLES = 24


def fresh(biases):
    return filled(SmallCnn(), biases).double()


def sets():
    x, y = images().double(), labels()
    return (x[FORGET:], y[FORGET:]), (x[:FORGET], y[:FORGET])


def example_gradients(model, functions, x):
    """For each example and each of `functions` of its logits [K], the gradient with respect to all parameters, in one row."""
    params = dict(model.named_parameters())
    rows = []
    for image in x:
        logits = torch.func.functional_call(model, params, (image[None],))[0]
        rows.append([torch.cat([g.flatten() for g in torch.autograd.grad(value, list(params.values()), retain_graph=True)]) for value in functions(logits)])
    return rows


def split(model, flat):
    pieces, start = {}, 0
    for name, p in model.named_parameters():
        pieces[name] = flat[start:start + p.numel()].reshape(p.shape)
        start += p.numel()
    return pieces


def fisher(model):
    (x, _), _ = sets()
    total = 0
    for image, rows in zip(x, example_gradients(model.eval(), lambda logits: F.log_softmax(logits, 0), x)):
        with torch.no_grad():
            p = F.softmax(model(image[None])[0], 0)
        total = total + sum(weight * row**2 for weight, row in zip(p, rows))
    return split(model, total / len(x))


def influence(model, damping):
    """(damping I + F)^-1 v, solved as a dense system."""
    (xr, yr), (xf, yf) = sets()
    model.eval()

    def rows(x, y):
        out = []
        for image, label in zip(x, y):
            out.append(example_gradients(model, lambda logits: [F.cross_entropy(logits[None], label[None])], image[None])[0][0])  # noqa: B023
        return torch.stack(out)

    retain, forget = rows(xr, yr), rows(xf, yf)
    n = len(xr) + len(xf)
    v = forget.sum(0) / n - len(xf) / (n * len(xr)) * retain.sum(0)
    matrix = damping * torch.eye(v.numel(), dtype=torch.float64) + retain.T @ retain / len(xr)
    return split(model, torch.linalg.solve(matrix, v))


def change(biases, data, epochs, ascend=False, sparsity=None, alpha=0.0):
    """By how much the weights change in `epochs` steps of SGD on the whole of `data`."""
    model = fresh(biases).train()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    masks = {}
    if sparsity is not None:
        filters = {name: p for name, p in model.named_parameters() if p.dim() > 2}
        sizes = torch.cat([p.detach().abs().flatten() for p in filters.values()])
        keep = torch.ones_like(sizes)
        keep[sizes.argsort(stable=True)[: int(sparsity * sizes.numel())]] = 0
        at = 0
        for name, p in filters.items():
            masks[name] = keep[at:at + p.numel()].reshape(p.shape)
            at += p.numel()
            with torch.no_grad():
                p.mul_(masks[name])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, maximize=ascend)
    for epoch in range(epochs):
        loss = F.cross_entropy(model(data[0]), data[1])
        loss = loss + alpha * (1 - epoch / epochs) * sum(p.abs().sum() for p in model.parameters())
        optimiser.zero_grad()
        loss.backward()
        for name, mask in masks.items():
            model.get_parameter(name).grad.mul_(mask)
        optimiser.step()
    return {name: p.detach() - start[name] for name, p in model.named_parameters()}


def document():
    biases, _ = away_from_kinks(SmallCnn, SMALL_RELUS)
    retain, forget = sets()
    model = fresh(biases)
    results = {
        "fisher": fisher(model),
        "influence_damping_1": influence(model, 1.0),
        "influence_damping_0.01": influence(model, 0.01),
        "ft": change(biases, retain, 3),
        "ga": change(biases, forget, 3, ascend=True),
        "wp": change(biases, retain, 3, sparsity=0.6, alpha=0.01),
    }
    tensors = {key: {name: summary(name, t, SAMPLES) for name, t in value.items()} for key, value in results.items()}
    return {"torch": torch.__version__, "forget": FORGET, "results": tensors}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored values instead of writing them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(over="ignore")
    warnings.simplefilter("ignore")
    made, path = document(), HERE / "unlearning.json"
    if not arguments.check:
        path.write_text(encode(made) + "\n")
        return
    found = list(differences("unlearning", json.loads(path.read_text()), json.loads(encode(made))))
    print("\n".join(found[:20]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
