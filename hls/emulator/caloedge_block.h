// What a block of events is.
#ifndef CALOEDGE_BLOCK_H
#define CALOEDGE_BLOCK_H

namespace {

constexpr int EVENTS = 32;  // of a block
constexpr int ALIGNMENT = 64;

}  // namespace
#endif
