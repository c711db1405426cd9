#include "tensor_core.h"
#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace cuemu {
namespace {

CUEMU_NOSAN float of_bf16(uint32_t bits) {
  uint32_t wide = bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

CUEMU_NOSAN float of_f16(uint32_t bits) {
  uint16_t narrow = (uint16_t)bits;
  _Float16 value;
  memcpy(&value, &narrow, 2);
  return (float)value;
}

// One lane's part of a product of 16 or 8 steps.
struct Product {
  float *d;
  uint32_t a[4], b[2];
};

template <int STEPS> CUEMU_NOSAN void multiply(Fiber **lanes, float (*widen)(uint32_t)) {
  float a[16][STEPS], b[STEPS][8], d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Product &p = *(Product *)lanes[lane]->arg;
    int group = lane >> 2, pair = (lane & 3) * 2;
    for (int i = 0; i < STEPS / 4; i++)
      for (int j = 0; j < 2; j++)
        a[group + i % 2 * 8][pair + j + i / 2 * 8] = widen(p.a[i] >> 16 * j & 0xffff);
    for (int i = 0; i < STEPS / 8; i++)
      for (int j = 0; j < 2; j++)
        b[pair + j + i * 8][group] = widen(p.b[i] >> 16 * j & 0xffff);
    for (int i = 0; i < 4; i++)
      d[group + i / 2 * 8][pair + i % 2] = p.d[i];
  }
  for (int row = 0; row < 16; row++)
    for (int column = 0; column < 8; column++) {
      double sum = d[row][column];
      for (int k = 0; k < STEPS; k++)
        sum += (double)a[row][k] * b[k][column];
      d[row][column] = (float)sum;
    }
  for (int lane = 0; lane < 32; lane++) {
    Product &p = *(Product *)lanes[lane]->arg;
    for (int i = 0; i < 4; i++)
      p.d[i] = d[(lane >> 2) + i / 2 * 8][(lane & 3) * 2 + i % 2];
  }
}

CUEMU_NOSAN void multiply_bf16(Fiber **lanes, unsigned) { multiply<16>(lanes, of_bf16); }
CUEMU_NOSAN void multiply_f16(Fiber **lanes, unsigned) { multiply<8>(lanes, of_f16); }

// A row that a lane names, and what the lane gets; `row` is read by the lane itself, so that sanitizers see who reads.
struct Rows {
  uint16_t row[8];
  uint32_t to[4];
  bool transposed;
};

CUEMU_NOSAN void spread_rows(Fiber **lanes, unsigned) {
  for (int lane = 0; lane < 32; lane++) {
    Rows &mine = *(Rows *)lanes[lane]->arg;
    for (int matrix = 0; matrix < 4; matrix++) {
      uint16_t pair[2];
      for (int i = 0; i < 2; i++) {
        int major = lane >> 2, minor = (lane & 3) * 2 + i;
        int row = mine.transposed ? minor : major, column = mine.transposed ? major : minor;
        pair[i] = ((Rows *)lanes[matrix * 8 + row]->arg)->row[column];
      }
      mine.to[matrix] = (uint32_t)pair[0] | (uint32_t)pair[1] << 16;
    }
  }
}

// Copies that a thread has issued and not yet seen done.
struct Copy {
  void *shared;
  const void *from;
  bool valid;
  unsigned group;
};

struct Issued {
  std::vector<Copy> copies;
  unsigned group = 0;
  unsigned long block = ~0ul;
  uint32_t random = 0;
};

Issued &issued() {
  static std::vector<Issued> all(1024);
  Issued &mine = all[cur->lin];
  if (mine.block != block_number()) {
    mine.copies.clear();
    mine.group = 0;
    mine.block = block_number();
    mine.random = cur->lin * 2654435761u + (uint32_t)mine.block;
  }
  return mine;
}

void perform(const Copy &copy) {
  if (copy.valid)
    memcpy(copy.shared, copy.from, 16);
  else
    memset(copy.shared, 0, 16);
}

} // namespace

CUEMU_NOSAN void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Product p{d, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  yield_warp("mma.m16n8k16", __LINE__, ~0u, multiply_bf16, &p);
}

CUEMU_NOSAN void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  Product p{d, {a0, a1, 0, 0}, {b, 0}};
  yield_warp("mma.m16n8k8", __LINE__, ~0u, multiply_f16, &p);
}

static void read_row(const void *row, uint64_t (&read)[2]) {
  read[0] = ((const uint64_t *)row)[0];
  read[1] = ((const uint64_t *)row)[1];
}

CUEMU_NOSAN static void exchange_rows(uint32_t (&to)[4], const uint64_t (&read)[2], bool transposed) {
  Rows rows{{}, {}, transposed};
  for (int i = 0; i < 8; i++)
    rows.row[i] = (uint16_t)(read[i / 4] >> 16 * (i % 4));
  yield_warp("ldmatrix", __LINE__, ~0u, spread_rows, &rows);
  for (int i = 0; i < 4; i++)
    to[i] = rows.to[i];
}

void load_matrices(uint32_t (&to)[4], const void *row, bool transposed) {
  if ((uintptr_t)row % 16) {
    fprintf(stderr, "cuemu: ldmatrix of a row that does not start on sixteen bytes\n");
    abort();
  }
  uint64_t read[2];
  read_row(row, read);
  exchange_rows(to, read, transposed);
}

void copy_sixteen(void *shared, const void *from, bool valid) {
  if ((uintptr_t)shared % 16 || (valid && (uintptr_t)from % 16)) {
    fprintf(stderr, "cuemu: cp.async of sixteen bytes from or to an address that is no multiple of sixteen\n");
    abort();
  }
  Issued &mine = issued();
  Copy copy{shared, from, valid, mine.group};
  bool at_once = false;
  switch (schedule()) {
  case Schedule::FORWARD:
  case Schedule::WARPS:
    break;
  case Schedule::REVERSE:
  case Schedule::WARPS_REVERSE:
    at_once = true;
    break;
  case Schedule::RANDOM:
    mine.random = mine.random * 1664525u + 1013904223u;
    at_once = mine.random >> 31;
  }
  if (at_once)
    perform(copy);
  else
    mine.copies.push_back(copy);
}

void copies_commit() { issued().group++; }

void copies_wait(unsigned pending) {
  Issued &mine = issued();
  size_t kept = 0;
  for (const Copy &copy : mine.copies) {
    if (copy.group + pending < mine.group)
      perform(copy);
    else
      mine.copies[kept++] = copy;
  }
  mine.copies.resize(kept);
}

} // namespace cuemu
