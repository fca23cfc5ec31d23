#ifndef CFS_TEST_LIB_SIM_CLIENT_H
#define CFS_TEST_LIB_SIM_CLIENT_H

#include "base/prng.h"
#include "meta.pb-c.h"
#include "rpc/session.h"
#include "test/lib/net_sim.h"
#include "test/lib/sim_model.h"

/* A client of a simulated cluster: the real session, a generator of commands, and a played arena,
 * which survives its crashes. Each answer is held against the model; what is wrong ends in the
 * report. */
struct sim_report {
    bool failed, trace;
    char why[1000];
    const struct timers *timers;
};
void sim_fail(struct sim_report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_trace(const struct sim_report *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

enum { SIM_OPS = 3, SIM_WAITING = 64, SIM_GOT = 512, SIM_OUTSTANDING = 24 };

/* Faults planted into what leaves a client. */
enum sim_edit {
    SIM_EDIT_NONE,
    SIM_EDIT_EPOCH,
    SIM_EDIT_KEEP_ALL,
    SIM_EDIT_SHARED_LOCK,
    SIM_EDIT_NO_HOLD
};

struct sim_tap {
    struct transport_ops ops;
    const struct transport_ops *real;
    enum sim_edit edit;
    struct prng prng;
};

struct sim_record { /* a command in the arena */
    struct command cmd;
    struct sim_client *client;
    struct list node;
    uint64_t seq;
    unsigned n_ops;
    struct sim_op op[SIM_OPS];
    bool done, checking; /* checking: done before the crash; the answer must be the same */
    struct buf reply;
};

struct sim_client {
    struct sim_report *report;
    struct timers *timers;
    struct net_sim *net;
    struct prng *prng;
    struct model *model;
    struct sim_tap *tap;
    struct transport *node;
    struct session *session;
    char name[16];
    uint8_t identity[16];
    uint64_t root;
    bool open, generating, ended;
    struct timer timer;
    /* The arena. */
    uint64_t session_number, next_seq;
    struct list outstanding; /* of sim_record, by number: not yet told to the model */
    struct list unreleased;  /* told, and not yet released */
    unsigned n_outstanding;
    uint64_t waiting[SIM_WAITING]; /* tickets */
    unsigned n_waiting;
    uint64_t got[SIM_GOT]; /* tickets granted */
    unsigned n_got;
    unsigned commands, restarts, refused;
};

void sim_client_init(struct sim_client *c, struct net_sim *net, struct timers *timers,
                     struct prng *prng, struct sim_report *report, struct model *model,
                     unsigned number, enum sim_edit edit);
void sim_client_start(struct sim_client *c); /* a node and a session, not opened */
/* Runs the network until it is open or bound_ms are over. The answer of the server, or
 * ERR_DEADLINE. */
int sim_client_open(struct sim_client *c, const uint8_t *earlier, uint64_t bound_ms);
void sim_client_kill(
    struct sim_client *c); /* kill -9 of the worker; a few numbers are lost with it */
void sim_client_resume(struct sim_client *c);     /* a new worker on the same arena */
bool sim_client_idle(const struct sim_client *c); /* nothing outstanding, all lock grants known */
int sim_client_close(struct sim_client *c, uint64_t bound_ms);
void sim_client_release(struct sim_client *c);
void sim_client_generate(struct sim_client *c, bool on);
/* Forgets what is outstanding, for another model. */
void sim_client_forget(struct sim_client *c);

/* A read, running the network. */
int sim_client_read(struct sim_client *c, uint16_t method, const ProtobufCMessage *m,
                    struct buf *reply);
/* The whole tree, as model_text tells it. Negative: an error. */
int sim_client_text(struct sim_client *c, struct buf *out, uint64_t inos[MODEL_LINES]);

/* test/lib/sim_ops.c: commands of a client. */
void sim_ops_random(struct sim_client *c, struct sim_op *op);
void sim_ops_pack(const struct sim_op *ops, unsigned n, struct buf *out);
/* False: not the answer to these operations. */
bool sim_ops_unpack(struct sim_op *ops, unsigned n, struct bytes reply);
const char *sim_ops_name(enum sim_kind kind);
bool sim_ops_edit(enum sim_edit edit, struct bytes command, struct prng *p, struct buf *out);

#endif
