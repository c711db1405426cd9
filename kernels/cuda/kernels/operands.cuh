// Frozen matrices in the types they are stored in, read element by element. Every kind decodes to the bits of the CPU's
// kernels: each product and sum is rounded on its own, never contracted.
//
// A matrix comes as four arguments: data, codes, scales, offset; all kinds but NF4 use the first alone.
#pragma once

#include "values.cuh"

// NF4: values of the codes (Dettmers et al., "QLoRA", 2023).
__device__ const float NF4_CODE[16] = {
    -1.0f,         -0.696192801f, -0.525073051f, -0.394917488f, -0.284441382f, -0.18477343f, -0.0910500363f, 0.0f,
    0.0795802996f, 0.160930201f,  0.246112302f,  0.337915242f,  0.440709829f,  0.562617004f, 0.722956836f,   1.0f,
};

// The signed dynamic 8-bit map (Dettmers, "8-bit approximations for parallelism in deep learning", 2015).
__device__ const float DYNAMIC_MAP[256] = {
    -0.992968738f,    -0.978906274f,    -0.96484375f,     -0.950781226f,
    -0.936718762f,    -0.922656238f,    -0.908593774f,    -0.89453125f,
    -0.880468726f,    -0.866406262f,    -0.852343738f,    -0.838281274f,
    -0.82421875f,     -0.810156226f,    -0.796093762f,    -0.782031238f,
    -0.767968774f,    -0.75390625f,     -0.739843726f,    -0.725781262f,
    -0.711718798f,    -0.697656274f,    -0.68359375f,     -0.669531226f,
    -0.655468762f,    -0.641406298f,    -0.627343774f,    -0.61328125f,
    -0.599218726f,    -0.585156262f,    -0.571093798f,    -0.557031274f,
    -0.54296875f,     -0.528906226f,    -0.514843702f,    -0.500781238f,
    -0.486718714f,    -0.47265625f,     -0.458593726f,    -0.444531262f,
    -0.430468738f,    -0.416406244f,    -0.40234375f,     -0.388281226f,
    -0.374218762f,    -0.360156238f,    -0.346093744f,    -0.33203125f,
    -0.317968726f,    -0.303906262f,    -0.289843738f,    -0.275781274f,
    -0.26171875f,     -0.247656241f,    -0.233593747f,    -0.219531253f,
    -0.205468744f,    -0.19140625f,     -0.177343756f,    -0.163281247f,
    -0.149218753f,    -0.135156244f,    -0.12109375f,     -0.107031256f,
    -0.0985937491f,   -0.0957812592f,   -0.0929687545f,   -0.0901562497f,
    -0.0873437524f,   -0.0845312476f,   -0.0817187577f,   -0.078906253f,
    -0.0760937482f,   -0.0732812509f,   -0.0704687461f,   -0.0676562563f,
    -0.0648437515f,   -0.0620312504f,   -0.0592187531f,   -0.0564062484f,
    -0.053593751f,    -0.05078125f,     -0.047968749f,    -0.0451562516f,
    -0.0423437469f,   -0.0395312496f,   -0.0367187522f,   -0.0339062512f,
    -0.0310937501f,   -0.028281251f,    -0.0254687499f,   -0.0226562507f,
    -0.0198437516f,   -0.0170312505f,   -0.0142187504f,   -0.0114062503f,
    -0.00971874967f,  -0.00915624946f,  -0.00859375019f,  -0.00803124998f,
    -0.00746874977f,  -0.00690625003f,  -0.00634374982f,  -0.00578125007f,
    -0.00521875033f,  -0.00465624966f,  -0.00409374991f,  -0.00353124971f,
    -0.00296874996f,  -0.00240624999f,  -0.00184375001f,  -0.00128124992f,
    -0.000943750085f, -0.000831249985f, -0.00071875006f,  -0.000606250076f,
    -0.000493750034f, -0.000381250022f, -0.000268750038f, -0.000156250011f,
    -8.87499991e-05f, -6.62500024e-05f, -4.37499984e-05f, -2.12499981e-05f,
    -7.7499999e-06f,  -3.25000019e-06f, -5.50000038e-07f, 0.0f,
    5.50000038e-07f,  3.25000019e-06f,  7.7499999e-06f,   2.12499981e-05f,
    4.37499984e-05f,  6.62500024e-05f,  8.87499991e-05f,  0.000156250011f,
    0.000268750038f,  0.000381250022f,  0.000493750034f,  0.000606250076f,
    0.00071875006f,   0.000831249985f,  0.000943750085f,  0.00128124992f,
    0.00184375001f,   0.00240624999f,   0.00296874996f,   0.00353124971f,
    0.00409374991f,   0.00465624966f,   0.00521875033f,   0.00578125007f,
    0.00634374982f,   0.00690625003f,   0.00746874977f,   0.00803124998f,
    0.00859375019f,   0.00915624946f,   0.00971874967f,   0.0114062503f,
    0.0142187504f,    0.0170312505f,    0.0198437516f,    0.0226562507f,
    0.0254687499f,    0.028281251f,     0.0310937501f,    0.0339062512f,
    0.0367187522f,    0.0395312496f,    0.0423437469f,    0.0451562516f,
    0.047968749f,     0.05078125f,      0.053593751f,     0.0564062484f,
    0.0592187531f,    0.0620312504f,    0.0648437515f,    0.0676562563f,
    0.0704687461f,    0.0732812509f,    0.0760937482f,    0.078906253f,
    0.0817187577f,    0.0845312476f,    0.0873437524f,    0.0901562497f,
    0.0929687545f,    0.0957812592f,    0.0985937491f,    0.107031256f,
    0.12109375f,      0.135156244f,     0.149218753f,     0.163281247f,
    0.177343756f,     0.19140625f,      0.205468744f,     0.219531253f,
    0.233593747f,     0.247656241f,     0.26171875f,      0.275781274f,
    0.289843738f,     0.303906262f,     0.317968726f,     0.33203125f,
    0.346093744f,     0.360156238f,     0.374218762f,     0.388281226f,
    0.40234375f,      0.416406244f,     0.430468738f,     0.444531262f,
    0.458593726f,     0.47265625f,      0.486718714f,     0.500781238f,
    0.514843702f,     0.528906226f,     0.54296875f,      0.557031274f,
    0.571093798f,     0.585156262f,     0.599218726f,     0.61328125f,
    0.627343774f,     0.641406298f,     0.655468762f,     0.669531226f,
    0.68359375f,      0.697656274f,     0.711718798f,     0.725781262f,
    0.739843726f,     0.75390625f,      0.767968774f,     0.782031238f,
    0.796093762f,     0.810156226f,     0.82421875f,      0.838281274f,
    0.852343738f,     0.866406262f,     0.880468726f,     0.89453125f,
    0.908593774f,     0.922656238f,     0.936718762f,     0.950781226f,
    0.96484375f,      0.978906274f,     0.992968738f,     1.0f,
};

// Elements that share an NF4 scale, and scales that share a second-level scale.
#define NF4_BLOCK 64
#define NF4_NESTED_BLOCK 256

struct F32Matrix {
  const float *data;
  static __device__ __forceinline__ F32Matrix of(const void *data, const u8 *, const float *, float) {
    return {(const float *)data};
  }
  // Whether `four` may be called: the matrix starts where such loads may.
  __device__ __forceinline__ bool wide() const { return (u64)data % 16 == 0; }
  __device__ __forceinline__ float at(u64 index) const { return data[index]; }
  // Four elements from a multiple of 4 on.
  __device__ __forceinline__ float4 four(u64 index) const { return *(const float4 *)(data + index); }
};

template <class T> struct NarrowMatrix {
  const T *data;
  static __device__ __forceinline__ NarrowMatrix of(const void *data, const u8 *, const float *, float) {
    return {(const T *)data};
  }
  __device__ __forceinline__ bool wide() const { return (u64)data % 8 == 0; }
  __device__ __forceinline__ float at(u64 index) const { return load_one(data + index); }
  __device__ __forceinline__ float4 four(u64 index) const { return load_four(data + index); }
};

typedef NarrowMatrix<bf16> Bf16Matrix;
typedef NarrowMatrix<f16> F16Matrix;

// NF4 with double quantisation: two codes a byte, high nibble first; the blocks run over the flattened matrix.
struct Nf4Matrix {
  const u8 *packed;
  const u8 *codes;
  const float *scales;
  float offset;
  static __device__ __forceinline__ Nf4Matrix of(const void *data, const u8 *codes, const float *scales, float offset) {
    return {(const u8 *)data, codes, scales, offset};
  }
  __device__ __forceinline__ float scale(u64 block) const {
    return __fadd_rn(__fmul_rn(DYNAMIC_MAP[codes[block]], scales[block / NF4_NESTED_BLOCK]), offset);
  }
  static __device__ __forceinline__ float value(u32 code, float scale) { return __fmul_rn(NF4_CODE[code], scale); }
  __device__ __forceinline__ bool wide() const { return (u64)packed % 2 == 0; }
  __device__ __forceinline__ float at(u64 index) const {
    u32 byte = packed[index / 2];
    return value(index & 1 ? byte & 15 : byte >> 4, scale(index / NF4_BLOCK));
  }
  __device__ __forceinline__ float4 four(u64 index) const {
    u32 bytes = *(const u16 *)(packed + index / 2);
    float by = scale(index / NF4_BLOCK);
    return make_float4(value(bytes >> 4 & 15, by), value(bytes & 15, by), value(bytes >> 12, by),
                       value(bytes >> 8 & 15, by));
  }
};

// Blocks of 32 as GGUF files hold them (ggml-common.h).
#define BLOCK_ELEMENTS 32

// Scale, 16 bytes of nibbles: element i low, i + 16 high, less 8.
struct Q4_0 {
  static const int BYTES = 18;
  static __device__ __forceinline__ float value(const u8 *block, u32 place) {
    float scale = f16::widen((u16)(block[0] | block[1] << 8));
    u32 byte = block[2 + place % 16];
    return __fmul_rn((float)(int)(place < 16 ? byte & 15 : byte >> 4) - 8.0f, scale);
  }
};

// Scale, least value, nibbles.
struct Q4_1 {
  static const int BYTES = 20;
  static __device__ __forceinline__ float value(const u8 *block, u32 place) {
    float scale = f16::widen((u16)(block[0] | block[1] << 8));
    float least = f16::widen((u16)(block[2] | block[3] << 8));
    u32 byte = block[4 + place % 16];
    return __fadd_rn(__fmul_rn((float)(int)(place < 16 ? byte & 15 : byte >> 4), scale), least);
  }
};

// Scale, 32 signed bytes.
struct Q8_0 {
  static const int BYTES = 34;
  static __device__ __forceinline__ float value(const u8 *block, u32 place) {
    float scale = f16::widen((u16)(block[0] | block[1] << 8));
    return __fmul_rn((float)(int)(i8)block[2 + place], scale);
  }
};

template <class Kind> struct BlockMatrix {
  const u8 *bytes;
  static __device__ __forceinline__ BlockMatrix of(const void *data, const u8 *, const float *, float) {
    return {(const u8 *)data};
  }
  __device__ __forceinline__ bool wide() const { return true; }
  __device__ __forceinline__ float at(u64 index) const {
    return Kind::value(bytes + index / BLOCK_ELEMENTS * Kind::BYTES, (u32)(index % BLOCK_ELEMENTS));
  }
  __device__ __forceinline__ float4 four(u64 index) const {
    const u8 *block = bytes + index / BLOCK_ELEMENTS * Kind::BYTES;
    u32 place = (u32)(index % BLOCK_ELEMENTS);
    return make_float4(Kind::value(block, place), Kind::value(block, place + 1), Kind::value(block, place + 2),
                       Kind::value(block, place + 3));
  }
};

// Every kind, for kernels that are made once per kind.
#define FOR_EACH_MATRIX(DO)                                                                                            \
  DO(f32, F32Matrix)                                                                                                   \
  DO(f16, F16Matrix)                                                                                                   \
  DO(bf16, Bf16Matrix)                                                                                                 \
  DO(nf4, Nf4Matrix)                                                                                                   \
  DO(q4_0, BlockMatrix<Q4_0>)                                                                                          \
  DO(q4_1, BlockMatrix<Q4_1>)                                                                                          \
  DO(q8_0, BlockMatrix<Q8_0>)
