#ifndef CFS_TEST_LIB_SIM_MODEL_H
#define CFS_TEST_LIB_SIM_MODEL_H

#include "base/buf.h"
#include "base/prng.h"

/* What a client's commands must have done: a small filesystem, written without looking at meta/,
 * that is told each operation in the order of the session and says whether it succeeds. Compared by
 * its text. A plain struct: to try what might have happened, copy it. */
enum {
    MODEL_NODES = 160,
    MODEL_ENTRIES = 256,
    MODEL_LINES = MODEL_ENTRIES + 1, /* of a text: the root too */
    MODEL_CELLS = 24, /* of 4 KiB: of a file with stripes */
    MODEL_CELL = 4096,
    MODEL_XATTRS = 2,
    MODEL_IDS = 4096,
    MODEL_TICKETS = 32,
    MODEL_ROOT = 1,
    MODEL_UNKNOWN = 1 << 30 /* inode numbers from here on stand for ones that nobody was told */
};

enum sim_kind {
    SIM_MAKE,
    SIM_UNLINK,
    SIM_RENAME,
    SIM_LINK,
    SIM_SETATTR,
    SIM_INLINE,
    SIM_WRITE,
    SIM_XATTR,
    SIM_LOCK,
    SIM_UNLOCK,
    SIM_CANCEL,
    SIM_RELEASE,
    SIM_GRANT,
    SIM_RETIRE,
    SIM_KINDS
};

struct sim_id {
    uint32_t pg;
    uint64_t id;
};

struct sim_op {
    enum sim_kind kind;
    bool needs_previous;
    uint64_t ino, parent, parent2;
    char name[8], name2[8]; /* name empty in SIM_MAKE: without a name */
    uint32_t mode, flags;
    bool held, directory;
    bool has_size;
    uint64_t size;
    uint8_t tag;          /* content; value of an xattr, 0: remove */
    unsigned cell, cells; /* SIM_WRITE */
    struct sim_id id;
    bool stale_epoch;
    unsigned xattr;
    unsigned domain; /* of locks: 0 flock, 1 OFD */
    uint64_t owner, ticket;
    bool wait;
    unsigned count;         /* SIM_GRANT */
    struct sim_id keep[24]; /* SIM_RETIRE */
    unsigned n_keep;
    /* The answer. */
    int rc;
    uint64_t made, got_ticket;
    struct sim_id got[16]; /* ids granted */
    unsigned n_got;
};

struct model_cell {
    uint32_t pg; /* 0: hole */
    uint64_t id;
    uint64_t at;
};
struct model_node {
    uint64_t ino; /* 0: free */
    uint32_t mode;
    unsigned links; /* names; a directory has one or none */
    bool held;
    uint64_t size;
    uint8_t tag; /* of inline content */
    unsigned content;
    uint64_t parent; /* of a directory */
    struct model_cell cell[MODEL_CELLS];
    uint8_t xattr[MODEL_XATTRS];
};
struct model_entry {
    uint64_t parent, ino; /* parent 0: free */
    char name[8];
};
enum model_id_state { MODEL_ID_GRANTED = 1, MODEL_ID_LIVE, MODEL_ID_DEAD };
struct model_id {
    struct sim_id at;
    uint8_t state;
};
struct model_wait {
    uint64_t owner, ticket;
};
struct model_lock {
    uint64_t holder; /* 0: nobody */
    struct model_wait queue[MODEL_TICKETS];
    unsigned n_queue;
};
struct model {
    struct model_node node[MODEL_NODES];
    struct model_entry entry[MODEL_ENTRIES];
    struct model_id id[MODEL_IDS];
    unsigned n_ids;
    struct model_lock lock[2];
    uint64_t granted[MODEL_TICKETS * 8]; /* tickets granted after a wait, in a ring */
    unsigned n_granted;
    uint64_t next_unknown; /* inode numbers of what was made without an answer */
    bool overflow;         /* out of room: the run says nothing */
};

void model_init(struct model *m);
/* What the operation does. previous_failed: of the operation before it in the command. Returns 0,
 * ERR_QUEUED or -1 for any other error. With `answered`, numbers come from the answer in op. */
int model_apply(struct model *m, const struct sim_op *op, bool previous_failed, bool answered);
void model_end_session(struct model *m);
/* What was made without an answer turned out to be this inode. */
void model_learn(struct model *m, uint64_t unknown, uint64_t ino);
struct model_node *model_node(struct model *m, uint64_t ino);
struct model_id *model_id_find(struct model *m, struct sim_id at);
/* One line per name, in order of paths; inos[i] belongs to line i. Returns the number of lines. */
unsigned model_text(const struct model *m, struct buf *out, uint64_t inos[MODEL_LINES]);
/* The same line for what was read. */
void model_line(struct buf *out, const char *path, const struct model_node *n, unsigned nlink);

#endif
