// What the lanes of a warp exchange.
#include "runtime.h"

namespace cuemu {

CUEMU_NOSAN void shuffle_lanes(Fiber **lanes, unsigned mask) {
  for (unsigned lane = 0; lane < 32; lane++) {
    if (!lanes[lane]) continue;
    Shuffle &mine = *(Shuffle *)lanes[lane]->arg;
    if (!(mask >> mine.source & 1)) {
      fprintf(stderr, "emulator: lane %u shuffles from lane %u, which its mask %08x does not name, at %s:%d\n", lane,
              mine.source, mask, lanes[lane]->file, lanes[lane]->line);
      abort();
    }
    mine.out = ((Shuffle *)lanes[mine.source]->arg)->value;
  }
}

CUEMU_NOSAN void ballot_lanes(Fiber **lanes, unsigned) {
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; lane++)
    if (lanes[lane]) votes |= ((Ballot *)lanes[lane]->arg)->predicate << lane;
  for (unsigned lane = 0; lane < 32; lane++)
    if (lanes[lane]) ((Ballot *)lanes[lane]->arg)->out = votes;
}

} // namespace cuemu
