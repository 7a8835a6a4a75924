/*
 * base/fault.h - makes the n-th allocation from now on fail, once, so that a test can try each in turn.
 * Only in check builds; elsewhere nothing is armed and nothing fails.
 */
#ifndef OURO_BASE_FAULT_H
#define OURO_BASE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#if defined(OURO_CHECK) && OURO_CHECK

void fault_arm(uint64_t nth); /* 1: the next one */
void fault_disarm(void);
bool fault_fired(void); /* since it was armed */
bool fault_hit(void);   /* asked by each allocation: is it your turn to fail? */

#else

static inline void fault_arm(uint64_t nth)
{
    (void)nth;
}
static inline void fault_disarm(void)
{
}
static inline bool fault_fired(void)
{
    return false;
}
static inline bool fault_hit(void)
{
    return false;
}

#endif
#endif
