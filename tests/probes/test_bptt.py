"""One layer gone through again, against autograd through the equations written out."""

import pytest
import torch

from gradscope.probes.bptt import GATES, Given, Weights, unroll

T, B, X, H, P = 6, 3, 4, 5, 2  # time, batch, input, hidden, projection


def step(mode, w, x, h, c):
    """One step of a layer as in torch's documentation: the new h and c."""
    from_x, from_h = x @ w["ih"].T + w["bias_ih"], h @ w["hh"].T + w["bias_hh"]
    if mode == "GRU":
        (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3, -1), from_h.chunk(3, -1)
        z = torch.sigmoid(xz + hz)
        return (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * h, c
    if mode == "LSTM":
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h @ w["hr"].T if "hr" in w else h), c
    return (torch.tanh if mode == "RNN_TANH" else torch.relu)(from_x + from_h), c


@pytest.mark.parametrize(("mode", "projected"), [*((mode, False) for mode in GATES), ("LSTM", True)])
def test_states_and_both_parts_of_their_gradients_are_autograds(mode, projected):
    torch.manual_seed(0)
    gates, size = max(len(GATES[mode]), 1), P if projected else H
    shapes = {"ih": (gates * H, X), "hh": (gates * H, size), "bias_ih": (gates * H,), "bias_hh": (gates * H,)}
    shapes |= {"hr": (P, H)} if projected else {}
    w = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    x = torch.randn(T, B, X, dtype=torch.float64, requires_grad=True)
    h0, c0 = (torch.randn(B, n, dtype=torch.float64, requires_grad=True) for n in (size, H))
    local, h_end = torch.randn(T, B, size, dtype=torch.float64), torch.randn(B, size, dtype=torch.float64)

    h, c, states, links = h0, c0, {"h": [], "c": []}, {"h": [], "c": []}
    for x_t in x:
        h, c = step(mode, w, x_t, h, c)
        states["h"].append(h)
        states["c"].append(c)
        h, c = h.clone(), c.clone()  # what is handed to the next step
        links["h"].append(h)
        links["c"].append(c)
    loss = (torch.stack(states["h"]) * local).sum() + (states["h"][-1] * h_end).sum()
    wanted = [x, h0, c0, *states["h"], *states["c"], *links["h"], *links["c"]]
    grads = [torch.zeros_like(t) if g is None else g
             for t, g in zip(wanted, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True)]  # fmt: skip
    of_x, of_h0, of_c0 = grads[:3]
    total = {"h": torch.stack(grads[3 : 3 + T]), "c": torch.stack(grads[3 + T : 3 + 2 * T])}
    carried = {"h": torch.stack(grads[3 + 2 * T : 3 + 3 * T]), "c": torch.stack(grads[3 + 3 * T :])}

    with torch.no_grad():
        inside = unroll(
            mode,
            Weights(**w),
            Given(x=x, h=torch.stack(states["h"]), h0=h0, c0=c0, local=local, h_end=h_end),
        )
        torch.testing.assert_close(inside.again, torch.stack(states["h"]))
        torch.testing.assert_close(inside.input_grad(), of_x)
        assert tuple(inside.gates) == GATES[mode]
        assert set(inside.states) == ({"h", "c"} if mode == "LSTM" else {"h"})
        for name, state in inside.states.items():
            torch.testing.assert_close(state.value, torch.stack(states[name]))
            torch.testing.assert_close(state.total, total[name])
            torch.testing.assert_close(state.carried, carried[name])
            torch.testing.assert_close(state.local, total[name] - carried[name])
            torch.testing.assert_close(state.first, of_h0 if name == "h" else of_c0)
