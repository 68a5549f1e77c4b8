"""Who of a block has seen what: races in shared memory, found from what orders two accesses, not from when they ran.

Every warp has a vector clock: of each agent (warps, and barriers, whose clock is the phases they completed) how far it
has come at least, as far as this warp knows. What a barrier orders joins the clocks. Two accesses to the same word, one
of them a store, race unless the later one's warp knows of the earlier one, however they happened to fall this time.

Two proxies reach shared memory: the threads' own instructions (generic), and copies by TMA and products (async). What a
thread stored is known to the latter only by a `fence.proxy.async` on the way: hence a second clock. A copy out of
shared memory and a product read until they are waited for. A copy into it stores until the phase of its barrier is
complete and has been waited for: the barrier is its agent.

Semantics: "Memory consistency model" and "Async proxy", PTX ISA 8.7; the algorithm: Flanagan and Freund, FastTrack,
PLDI 2009.
"""

from __future__ import annotations

import numpy as np

from jitrt.errors import KernelError
from jitrt.graph.op import Array

WORD = 4  # bytes that are told apart
_BARRIERS = 128  # at most

Clocks = tuple[Array, Array]
"""What one may know of every agent: by generic instructions, and by async ones."""


class Order:
    """The clocks of a block's warps, and for every word of its shared memory who stored and read it last.

    Agents are its warps, its barriers, and then the warps of all blocks of the launch, of which this one is number
    `block` (its own are not kept up to date there)."""

    def __init__(self, warps: int, shared_bytes: int, block: int = 0, blocks: int = 1):
        self.warps, self._block, words = warps, block, -(-shared_bytes // WORD)
        agents = warps + _BARRIERS + blocks * warps
        self.generic = np.zeros((warps, agents), np.int64)
        self.generic[:, :warps] = np.eye(warps)
        self.fenced = np.zeros((warps, agents), np.int64)  # the same, of what async instructions may rely on
        self._writer = np.zeros(words, np.int64)
        self._written = np.zeros(words, np.int64)  # the writer's clock then; 0: nobody wrote
        self._read = np.zeros((words, warps), np.int64)  # each reader's clock then
        self._open = np.zeros(words, np.int64)  # products and copies that read it and have not been waited for

    # -- what orders

    def tick(self, warp: int) -> None:
        """What the warp does from now on is not covered by what it told before."""
        self.generic[warp, warp] += 1

    def told(self, warp: int) -> Clocks:
        """What a warp passes on by arriving at a barrier."""
        told = self.generic[warp].copy(), self.fenced[warp].copy()
        self.tick(warp)
        return told

    def learn(self, warp: int, told: Clocks) -> None:
        np.maximum(self.generic[warp], told[0], out=self.generic[warp])
        np.maximum(self.fenced[warp], told[1], out=self.fenced[warp])

    def fence(self, warp: int) -> None:
        """`fence.proxy.async`: what the warp knows of, async instructions see as well."""
        np.maximum(self.fenced[warp], self.generic[warp], out=self.fenced[warp])
        self.tick(warp)

    # -- warps of other blocks

    def agent(self, warp: int) -> int:
        """A warp's number in the launch."""
        return self._block * self.warps + warp

    def launch(self, warp: int) -> Array:
        """What a warp knows of all warps of the launch."""
        clocks = self.generic[warp, self.warps + _BARRIERS :].copy()
        clocks[self.agent(0) : self.agent(self.warps)] = self.generic[warp, : self.warps]
        return clocks

    def learn_launch(self, warp: int, clocks: Array) -> None:
        own, others = self.generic[warp, : self.warps], self.generic[warp, self.warps + _BARRIERS :]
        np.maximum(own, clocks[self.agent(0) : self.agent(self.warps)], out=own)
        np.maximum(others, clocks, out=others)

    def knows(self, warp: int, agent: int, clock: int, *, fenced: bool) -> bool:
        return bool((self.fenced if fenced else self.generic)[warp, agent] >= clock)

    # -- accesses: `words` without repetition

    def reads(self, warp: int, words: Array, what: str, *, asynchronous: bool = False) -> None:
        """A read that is over, or, asynchronous, that begins here."""
        late = self._written[words] > self._known(warp, asynchronous)[self._writer[words]]
        if late.any():
            raise self._race(what, "reads", words[late][0], asynchronous)
        if asynchronous:
            self._open[words] += 1
        else:
            self._read[words, warp] = self.generic[warp, warp]

    def waited_for(self, warp: int, words: Array) -> None:
        """An asynchronous read of the warp's is over."""
        self._open[words] -= 1
        self._read[words, warp] = self.generic[warp, warp]

    def writes(self, warp: int, words: Array, what: str, same: Array | None = None) -> None:
        """A store, of what is there already where `same`: that may be another warp's."""
        self._may_write(warp, words, what, asynchronous=False, same=same)
        self._writer[words], self._written[words] = warp, self.generic[warp, warp]

    def copies(self, warp: int, words: Array, barrier: int, phase: int, what: str) -> None:
        """A copy that a warp starts and that completes `phase` of barrier number `barrier`."""
        self._may_write(warp, words, what, asynchronous=True)
        self._writer[words], self._written[words] = self.warps + barrier, phase + 1

    def _may_write(self, warp: int, words: Array, what: str, *, asynchronous: bool, same: Array | None = None) -> None:
        early = self._written[words] > self._known(warp, asynchronous)[self._writer[words]]
        if same is not None:
            early &= ~same
        # No fence is asked for between a thread's read and a copy that overwrites what it read: CUTLASS has none there.
        early |= (self._read[words] > self.generic[warp, : self.warps]).any(axis=1)
        early |= self._open[words] > 0
        if early.any():
            raise self._race(what, "overwrites", words[early][0], asynchronous)

    def _known(self, warp: int, asynchronous: bool) -> Array:
        """What a warp's next instruction may rely on. Copies by TMA are known to both proxies once waited for."""
        if not asynchronous:
            return self.generic[warp]
        return np.concatenate([self.fenced[warp, : self.warps], self.generic[warp, self.warps :]])

    def _race(self, what: str, does: str, word: int, asynchronous: bool) -> KernelError:
        writer, clock = int(self._writer[word]), int(self._written[word])
        by = f"warp {writer}" if writer < self.warps else f"a copy to barrier {writer - self.warps}, phase {clock - 1}"
        readers = [int(warp) for warp in np.flatnonzero(self._read[word])]
        under = f"; {self._open[word]} asynchronous reads of it have not been waited for" if self._open[word] else ""
        place = f"byte {word * WORD}{' asynchronously' if asynchronous else ''}"
        return KernelError(
            f"a race: {what} {does} {place}, with nothing to order it after {by if clock else 'nobody'} who stored it "
            f"and warps {readers} who read it{under}"
        )


def words_of(places: Array) -> Array:
    """The words that bytes belong to, each once."""
    return np.unique(places // WORD)


def whole_words(places: Array, itemsize: int = 1) -> Array:
    """The same, quicker, of elements that fill one word after another."""
    return np.asarray(places.reshape(-1, WORD // itemsize)[:, 0] // WORD)
