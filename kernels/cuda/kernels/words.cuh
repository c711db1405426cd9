#pragma once
#ifndef LUTHIER_WORDS
#define LUTHIER_WORDS
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#endif
