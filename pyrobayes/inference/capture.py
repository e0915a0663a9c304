"""Functions of tensors that a CUDA device replays as one graph, and any other device calls.

A call launches a kernel for every operation, and a GPU waits for the launches where networks are small. A CUDA graph
launches all kernels of a call at once. Python runs only while the graph is captured.
"""

import gc
import numbers
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdRef

WARM_UP = 3  # ordinary calls on a side stream before a capture: libraries choose and load their kernels there
KEPT = 16  # graphs of one function, of other shapes each; the one that was not used for longest goes


class Recorder:
    """Captures functions on CUDA devices: one side stream and one memory pool for all graphs of a device.

    Graphs may share a pool because they are replayed one after another, and their outputs are copied at once.
    """

    def __init__(self):
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._graphs: dict[torch.device, weakref.WeakSet] = {}

    def serves(self, given: tuple) -> bool:
        """True where all tensors are on CUDA devices, and hold values (fake tensors don't)."""
        tensors = [each for each in given if isinstance(each, Tensor)]
        ours = all(type(each) is Tensor and each.is_cuda for each in tensors)
        return ours and bool(tensors) and not torch.cuda.is_current_stream_capturing()  # by a user's own graph

    def warm_up(self, function: Callable, given: tuple) -> Any:
        """Call the function on the side stream."""
        device = _device(given)
        with torch.cuda.device(device):
            side, current = self._stream(device), torch.cuda.current_stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                result = function(*given)
            current.wait_stream(side)
        return result

    def record(self, function: Callable, buffers: tuple) -> Callable[[], Any]:
        """Capture a call; returns a function that replays it on what the buffers hold then."""
        device = _device(buffers)
        gc.collect()  # so that nothing old is freed in the middle of the capture
        with torch.cuda.device(device):
            graph, others = torch.cuda.CUDAGraph(), self._graphs.setdefault(device, weakref.WeakSet())
            pool = next((other.pool() for other in others), None)
            with torch.cuda.graph(graph, pool=pool, stream=self._stream(device)):
                outputs = function(*buffers)
        others.add(graph)

        def replay() -> Any:
            with torch.cuda.device(device):
                graph.replay()
            return outputs

        return replay

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]


def _device(given: tuple) -> torch.device:
    return next(each.device for each in given if isinstance(each, Tensor))


RECORDER = Recorder()


def serves(*given: Tensor | float | None) -> bool:
    """True where a captured function of these arguments is replayed."""
    return RECORDER.serves(given)


class Buffers:
    """Tensors that stay where they are, with the values of arguments; a number is a tensor without dimensions there."""

    def __init__(self, given: tuple):
        device = _device(given)
        self.tensors = tuple(_buffer(each, device) for each in given)
        self._held = [_content(each) for each in given]

    def fill(self, given: tuple) -> None:
        """Take the values of other arguments. What is there already, such as the batch that is attacked, isn't copied again."""
        for place, (buffer, each) in enumerate(zip(self.tensors, given)):
            content = _content(each)
            if buffer is None or content == self._held[place]:
                continue
            buffer.copy_(each) if isinstance(each, Tensor) else buffer.fill_(each)
            self._held[place] = content


def _buffer(value: Tensor | float | None, device: torch.device) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value if value is None else value.detach().clone()
    dtype = torch.long if isinstance(value, numbers.Integral) else torch.float64
    return torch.full((), value, dtype=dtype, device=device)


def _content(value: Tensor | float | None) -> tuple[WeakIdRef, object] | float | None:
    """Equal where an argument has the values of before: of a tensor, itself and how often it was changed in place.

    Nothing tells that of inference tensors, which equal none.
    """
    if not isinstance(value, Tensor):
        return value
    return WeakIdRef(value), object() if value.is_inference() else value._version


class Captured:
    """A function of tensors, replayed as a CUDA graph once it has been called a few times with the same shapes.

    The result must follow from the arguments, and from tensors that stay where they are, such as weights, which the
    function may change in place. It gives a tensor or a tuple of tensors, draws no random numbers, and copies nothing to
    the host. Every call counts: the first ones are ordinary calls, and a capture changes no value.

    Where a capture fails, one warning says so, and the function is called from then on.

    Args:
        function: its arguments are tensors or None. Numbers reach it as tensors without dimensions.
        name: the function's, for the warning.
        forget: called after a capture that failed, to drop tensors that it left without values.
    """

    def __init__(self, function: Callable, name: str, forget: Callable[[], None] = lambda: None):
        self._function, self._name, self._forget = function, name, forget
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._graphs: dict[Hashable, tuple[Buffers, Callable[[], Any]]] = {}  # and what replays them
        self.failed = False

    def __call__(self, *given: Tensor | float | None) -> Any:
        if self.failed or not serves(*given):
            return self._function(*given)
        key = tuple((each.shape, each.dtype, each.device) if isinstance(each, Tensor) else type(each) for each in given)
        calls = self._calls[key] = self._calls.pop(key, 0) + 1
        if calls <= WARM_UP:
            return RECORDER.warm_up(self._function, Buffers(given).tensors)
        if key not in self._graphs and not self._capture(key, given):
            return self._function(*given)
        buffers, replay = self._graphs[key]
        buffers.fill(given)
        result = replay()
        return result.clone() if isinstance(result, Tensor) else tuple(each.clone() for each in result)

    def _capture(self, key: Hashable, given: tuple) -> bool:
        buffers = Buffers(given)
        try:
            self._graphs[key] = buffers, RECORDER.record(self._function, buffers.tensors)
        except RuntimeError as error:  # as torch raises where an operation can't be captured, or memory is short
            self.failed = True
            self._graphs.clear()
            self._forget()
            reason = str(error).partition("\n")[0]
            warnings.warn(f"{self._name} runs without a CUDA graph, and slower: the capture failed ({reason})")
            return False
        if len(self._calls) > KEPT:
            self._graphs.pop(self._calls.popitem(last=False)[0], None)
        return True


class Graphs:
    """Captured functions by what decides their results. A copy, or one that is unpickled, starts empty."""

    def __init__(self):
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()

    def of(self, key: Hashable, make: Callable[[], Captured]) -> Captured:
        """The captured function of a key, made where there is none yet."""
        found = self._captured.pop(key, None) or make()
        self._captured[key] = found
        if len(self._captured) > KEPT:
            self._captured.popitem(last=False)
        return found

    def __reduce__(self):
        return Graphs, ()
