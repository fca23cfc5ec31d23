#include "base/err.h"
#include "meta/fsm_state.h"

int fsm_audit(struct fsm *f, void (*problem)(void *ctx, const char *text), void *ctx)
{
    (void)f, (void)problem, (void)ctx;
    return 0;
}
