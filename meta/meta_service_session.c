/* Sessions and commands. What is replicated about a session is the state machine's; here is what only the
 * leader knows: when it renewed, over which connection it speaks, what it may write.
 *
 * Order of commands: a connection is FIFO and a client sends ascending numbers, so proposing in order of arrival is
 * right, but for a hole: when one number is refused before it is applied, those behind it must not be applied
 * either. So `proposed` is the highest number handed on without a hole; a number beyond the next is
 * refused as busy, and a refusal takes `proposed` back. */
#include "meta/meta_service_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "log.pb-c.h"
#include "proto/methods.h"

struct asked { /* a request that waits for its proposal */
    struct proposal proposal;
    struct meta_service *service;
    struct request *request;
    struct buf body;
    uint64_t session, seq;
    Cfs__SessionOpen *open;
};

static struct asked *asked_new(struct meta_service *s, struct request *r, uint8_t type,
                               void (*on_done)(struct proposal *p))
{
    struct asked *a = xcalloc(1, sizeof *a);
    a->service = s;
    a->request = r;
    a->proposal.type = type;
    a->proposal.on_done = on_done;
    buf_init(&a->body);
    return a;
}

static void asked_free(struct asked *a)
{
    cfs__session_open__free_unpacked(a->open, NULL);
    buf_release(&a->body);
    free(a);
}

/* ---- the table ------------------------------------------------------------------------------ */

static void client_free(struct meta_service *s, struct client *c)
{
    table_remove(&s->clients, &c->node);
    free(c->host);
    free(c->mount_point);
    free(c->version);
    free(c);
}

static struct client *client_add(struct meta_service *s, uint64_t session, const Cfs__SessionOpen *open)
{
    struct client *c = service_client(s, session);
    if (c == NULL) {
        c = xcalloc(1, sizeof *c);
        c->session = session;
        table_add(&s->clients, &c->node, table_mix(session));
    }
    free(c->host);
    free(c->mount_point);
    free(c->version);
    c->host = xstrdup(open->host);
    c->mount_point = open->mount_point != NULL ? xstrdup(open->mount_point) : NULL;
    c->version = xstrdup(open->version);
    c->renewed_ms = service_now(s);
    return c;
}

static void free_visit(struct table_node *node, void *ctx)
{
    client_free(ctx, container_of(node, struct client, node));
}

static void sessions_done(struct machine_read *m)
{
    struct meta_service *s = container_of(m, struct meta_service, sessions_query);
    Cfs__SessionList *list =
        m->rc == 0 ? cfs__session_list__unpack(NULL, m->reply.len, m->reply.data) : NULL;
    buf_clear(&m->reply);
    if (list == NULL) {
        return;
    }
    for (size_t i = 0; i < list->n_session; i++) {
        const Cfs__SessionList__Session *row = list->session[i];
        struct client *c = service_client(s, row->session);
        if (c == NULL) {
            c = client_add(s, row->session, row->open);
            c->proposed = row->last_seq;
            c->applied = row->last_seq;
        }
        c->locks = row->locks;
    }
    s->sessions_known = true;
    cfs__session_list__free_unpacked(list, NULL);
}

void service_session_lead(struct meta_service *s)
{
    s->sessions_known = false;
    machine_read(s->machine, &s->sessions_query);
}

void service_session_unlead(struct meta_service *s)
{
    table_walk(&s->clients, free_visit, s);
    s->sessions_known = false;
}

static void forgive_visit(struct table_node *node, void *ctx)
{
    container_of(node, struct client, node)->renewed_ms = *(const uint64_t *)ctx;
}

void service_session_forgive(struct meta_service *s)
{
    uint64_t now = service_now(s);
    table_walk(&s->clients, forgive_visit, &now);
}

struct gone {
    const struct server_peer *peer;
};

static void gone_visit(struct table_node *node, void *ctx)
{
    struct client *c = container_of(node, struct client, node);
    const struct gone *g = ctx;
    if (c->connection == g->peer) {
        c->connection = NULL; /* the lease runs on */
    }
}

void service_session_gone(struct meta_service *s, const struct server_peer *p)
{
    struct gone g = {.peer = p};
    table_walk(&s->clients, gone_visit, &g);
}

/* ---- events to clients ---------------------------------------------------------------------- */

struct telling {
    uint16_t method;
    struct bytes body;
};

static void tell_visit(struct table_node *node, void *ctx)
{
    const struct client *c = container_of(node, struct client, node);
    const struct telling *t = ctx;
    if (c->connection != NULL) {
        server_event(c->connection, t->method, t->body);
    }
}

void service_session_tables(struct meta_service *s)
{
    Cfs__TablesRequest m = CFS__TABLES_REQUEST__INIT;
    m.version = s->tables_version;
    struct buf body;
    buf_init(&body);
    SERVICE_PACK(cfs__tables_request, &m, &body);
    struct telling t = {.method = EVENT_TABLES, .body = buf_bytes(&body)};
    table_walk(&s->clients, tell_visit, &t);
    buf_release(&body);
}

static void tell_granted(struct meta_service *s, struct bytes granted)
{
    struct cursor c = cursor_of(granted);
    while (cursor_left(&c) >= 16) {
        struct client *to = service_client(s, cursor_le64(&c));
        Cfs__LockGranted m = CFS__LOCK_GRANTED__INIT;
        m.ticket = cursor_le64(&c);
        if (to != NULL && to->connection != NULL) { /* else its next renewal asks */
            struct buf body;
            buf_init(&body);
            SERVICE_PACK(cfs__lock_granted, &m, &body);
            server_event(to->connection, EVENT_LOCK_GRANTED, buf_bytes(&body));
            buf_release(&body);
        }
    }
}

void service_session_applied(struct meta_service *s, const struct fsm_effects *e)
{
    tell_granted(s, buf_bytes(&e->granted));
    struct cursor c = cursor_of(buf_bytes(&e->ended));
    while (cursor_left(&c) >= 8) {
        const uint64_t session = cursor_le64(&c);
        struct client *ended = service_client(s, session);
        log_info("session ended, session=%llu", (unsigned long long)session);
        if (ended == NULL) {
            continue;
        }
        if (ended->connection != NULL) {
            server_event(ended->connection, EVENT_SESSION_ENDED, BYTES(NULL, 0));
        }
        client_free(s, ended);
    }
}

/* ---- open, renew, close --------------------------------------------------------------------- */

static void open_done(struct proposal *p)
{
    struct asked *a = container_of(p, struct asked, proposal);
    struct meta_service *s = a->service;
    if (p->rc == 0 && s->leader) {
        Cfs__SessionOpenReply *reply = cfs__session_open_reply__unpack(
            NULL, p->effects->reply.len, p->effects->reply.data);
        CHECK(reply != NULL); /* our own state machine packed it */
        struct client *c = client_add(s, reply->session, a->open);
        c->connection = a->request->peer;
        log_info("session opened, session=%llu host=%s", (unsigned long long)reply->session,
                 c->host);
        cfs__session_open_reply__free_unpacked(reply, NULL);
    }
    service_answer_effects(a->request, p);
    asked_free(a);
}

struct expiry {
    struct meta_service *service;
    uint64_t *sessions;
    size_t n;
};

static void expiry_visit(struct table_node *node, void *ctx)
{
    struct expiry *x = ctx;
    const struct client *c = container_of(node, struct client, node);
    if (service_now(x->service) > c->renewed_ms + SERVICE_LEASE_MS) {
        x->sessions[x->n++] = c->session;
    }
}

static void handle_open(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    if (r->body.len > SERVICE_OPEN_BYTES_MAX) { /* it is kept, and shown in every status */
        request_reply(r, ERR_TOO_BIG, BYTES(NULL, 0), NULL);
        return;
    }
    Cfs__SessionOpen *open = cfs__session_open__unpack(NULL, r->body.len, r->body.data);
    if (open == NULL) {
        request_malformed(r);
        return;
    }
    if (!s->sessions_known) { /* who has expired cannot be said yet */
        cfs__session_open__free_unpacked(open, NULL);
        request_reply(r, ERR_BUSY, BYTES(NULL, 0), NULL);
        return;
    }
    service_watch_gap(s);
    struct asked *a = asked_new(s, r, ENTRY_SESSION_OPEN, open_done);
    a->open = open;
    struct expiry x = {.service = s, .sessions = xcalloc(s->clients.n + 1, sizeof x.sessions[0])};
    table_walk(&s->clients, expiry_visit, &x);
    Cfs__LogSessionOpen m = CFS__LOG_SESSION_OPEN__INIT;
    m.open = open;
    m.expired = x.sessions;
    m.n_expired = x.n;
    m.lease_ms = SERVICE_LEASE_MS;
    SERVICE_PACK(cfs__log_session_open, &m, &a->body);
    free(x.sessions);
    a->proposal.body = buf_bytes(&a->body);
    machine_propose(s->machine, &a->proposal);
}

static void take_bad(struct meta_service *s, const Cfs__BadFragment *b)
{
    for (unsigned i = 0; i < s->n_bad; i++) {
        const struct bad_fragment *k = &s->bad[i];
        if (k->pg == b->pg && k->stripe == b->stripe && k->slot == b->slot) {
            return;
        }
    }
    s->bad_count++;
    if (s->n_bad == SERVICE_BAD_MAX) {
        return; /* what is not remembered may have been told before */
    }
    s->bad[s->n_bad++] = (struct bad_fragment){
        .pg = b->pg, .slot = b->slot, .server = b->server, .what = b->what, .stripe = b->stripe};
    log_warn("bad fragment reported, pg=%u stripe=%llu slot=%u server=%u what=%s", b->pg,
             (unsigned long long)b->stripe, b->slot, b->server, b->what == 2 ? "corrupt" : "missing");
}

static void credit_visit(struct table_node *node, void *ctx)
{
    *(uint64_t *)ctx += container_of(node, struct client, node)->credit;
}

/* After an election the free space is known when every server has sent a heartbeat. */
static bool space_known(const struct meta_service *s)
{
    for (unsigned i = 0; i < s->registry.n; i++) {
        const struct registry_server *server = s->registry.servers[i];
        if (server->state == SERVER_UP && !server->heard) {
            return false;
        }
    }
    return true;
}

/* What it may write from now on. What others were granted and have not used is not there for it. */
static void grant_credit(struct meta_service *s, struct client *c, const Cfs__SessionRenew *m)
{
    c->credit = 0;
    uint64_t others = 0;
    table_walk(&s->clients, credit_visit, &others);
    const uint64_t there = service_raw_free(s);
    const uint64_t left = there > others ? there - others : 0;
    uint64_t most = s->clients.n == 1 ? left : SERVICE_CREDIT_MAX;
    if (m->has_want_credit && m->want_credit > most) {
        most = m->want_credit;
    }
    c->credit = left < most ? left : most;
    if (!space_known(s) && c->credit < m->want_credit) {
        c->credit = m->want_credit; /* it had that much before the election, or chunk servers will refuse it */
    }
}

static void renew_answer(struct meta_service *s, struct request *r, uint64_t credit,
                         const Cfs__TicketList *tickets)
{
    Cfs__SessionRenewReply reply = CFS__SESSION_RENEW_REPLY__INIT;
    reply.reign = machine_state(s->machine).reign;
    reply.credit = credit;
    reply.tables_version = s->tables_version;
    if (tickets != NULL) {
        reply.granted_ticket = tickets->granted;
        reply.n_granted_ticket = tickets->n_granted;
    }
    struct buf body;
    buf_init(&body);
    SERVICE_PACK(cfs__session_renew_reply, &reply, &body);
    request_reply(r, 0, buf_bytes(&body), NULL);
    buf_release(&body);
}

/* A renewal that names lock tickets: the state says which of them do not wait any more. The event that told of a
 * grant may have been lost with a connection, or with an earlier leader. */
struct renewal {
    struct meta_service *service;
    struct request *request;
    struct machine_read read;
    struct buf body;
    uint64_t credit;
};

static void renewal_done(struct machine_read *read)
{
    struct renewal *w = container_of(read, struct renewal, read);
    Cfs__TicketList *list =
        read->rc == 0 ? cfs__ticket_list__unpack(NULL, read->reply.len, read->reply.data) : NULL;
    renew_answer(w->service, w->request, w->credit, list);
    if (list != NULL) {
        cfs__ticket_list__free_unpacked(list, NULL);
    }
    buf_release(&read->reply);
    buf_release(&w->body);
    free(w);
}

static void renew_tickets(struct meta_service *s, struct request *r, const struct client *c,
                          const Cfs__SessionRenew *m)
{
    struct renewal *w = xcalloc(1, sizeof *w);
    Cfs__QueryRequest query = CFS__QUERY_REQUEST__INIT;
    query.has_session = 1;
    query.session = m->session;
    query.ticket = m->waiting_ticket;
    query.n_ticket = m->n_waiting_ticket;
    buf_init(&w->body);
    SERVICE_PACK(cfs__query_request, &query, &w->body);
    w->service = s;
    w->request = r;
    w->credit = c->credit;
    w->read = (struct machine_read){.method = FSM_QUERY_TICKETS,
                                    .query = true,
                                    .request = buf_bytes(&w->body),
                                    .on_done = renewal_done};
    machine_read(s->machine, &w->read);
}

static void renew(struct meta_service *s, struct request *r, struct client *c, const Cfs__SessionRenew *m)
{
    c->renewed_ms = service_now(s);
    c->connection = r->peer;
    c->dirty_bytes = m->dirty_bytes;
    c->memory_bytes = m->memory_bytes;
    c->memory_limit = m->memory_limit;
    for (size_t i = 0; i < m->n_bad; i++) {
        take_bad(s, m->bad[i]);
    }
    grant_credit(s, c, m);
    if (m->n_waiting_ticket > 0) {
        renew_tickets(s, r, c, m);
    } else {
        renew_answer(s, r, c->credit, NULL);
    }
}

static void handle_renew(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    Cfs__SessionRenew *m = cfs__session_renew__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    struct client *c = service_client(s, m->session);
    if (c == NULL) {
        request_reply(r, s->sessions_known ? ERR_SESSION_ENDED : ERR_BUSY, BYTES(NULL, 0), NULL);
    } else {
        renew(s, r, c, m);
    }
    cfs__session_renew__free_unpacked(m, NULL);
}

static void close_done(struct proposal *p)
{
    struct asked *a = container_of(p, struct asked, proposal);
    service_answer_effects(a->request, p);
    asked_free(a);
}

static void handle_close(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    Cfs__SessionClose *m = cfs__session_close__unpack(NULL, r->body.len, r->body.data);
    if (m == NULL) {
        request_malformed(r);
        return;
    }
    struct client *c = service_client(s, m->session);
    if (c != NULL) {
        c->connection = NULL; /* who closes need not be told of the end */
    }
    struct asked *a = asked_new(s, r, ENTRY_SESSION_END, close_done);
    Cfs__LogSessionEnd end = CFS__LOG_SESSION_END__INIT;
    end.session = m->session;
    end.has_why = true;
    end.why = 1;
    SERVICE_PACK(cfs__log_session_end, &end, &a->body);
    a->proposal.body = buf_bytes(&a->body);
    cfs__session_close__free_unpacked(m, NULL);
    machine_propose(s->machine, &a->proposal);
}

/* ---- commands ------------------------------------------------------------------------------- */

/* Numbers of fields in meta.proto. */
enum { FIELD_SESSION = 1, FIELD_SEQ = 2, FIELD_OPS = 4, FIELD_RESERVE_MAX = 5, FIELD_RESERVE_HOPE = 6,
       FIELD_OP = 1, FIELD_FALLOCATE = 8 };

struct command_head {
    uint64_t session, seq;
    struct bytes ops;
};

/* Session, sequence and operations of a packed CommandRequest, without copying what it carries. */
static bool command_peek(struct bytes body, struct command_head *out)
{
    struct cursor c = cursor_of(body);
    unsigned seen = 0;
    *out = (struct command_head){.seq = 0};
    while (cursor_left(&c) > 0 && !c.bad) {
        const uint64_t tag = cursor_varint(&c);
        if ((tag & 7) == 2) {
            const struct bytes run = cursor_run(&c);
            out->ops = tag >> 3 == FIELD_OPS ? run : out->ops;
        } else if ((tag & 7) == 0) {
            const uint64_t value = cursor_varint(&c);
            if (tag >> 3 == FIELD_SESSION) {
                out->session = value;
                seen |= 1;
            } else if (tag >> 3 == FIELD_SEQ) {
                out->seq = value;
                seen |= 2;
            }
        } else {
            return false; /* no field of it has another wire type */
        }
    }
    return !c.bad && seen == 3 && out->seq != 0;
}

/* Whether a packed message has a field of this number, which is a message; `then`: that one has such a field. */
static bool has_field(struct bytes message, uint64_t field, uint64_t then)
{
    struct cursor c = cursor_of(message);
    while (cursor_left(&c) > 0 && !c.bad) {
        const uint64_t tag = cursor_varint(&c);
        if ((tag & 7) != 2) {
            (void)cursor_varint(&c);
            continue;
        }
        const struct bytes run = cursor_run(&c);
        if (!c.bad && tag >> 3 == field && (then == 0 || has_field(run, then, 0))) {
            return true;
        }
    }
    return false;
}

/* The room for preallocations is known to the leader only, from heartbeats; `apply` has to decide alike on every
 * server. So the leader adds to the command how much may be reserved in all: what is behind it in the
 * log is counted when it is applied. A field that was there already loses against one that follows. */
static void add_reserve_max(struct meta_service *s, const struct client *c, struct asked *a)
{
    uint64_t granted = 0;
    table_walk(&s->clients, credit_visit, &granted);
    uint64_t hope = 0;
    const uint64_t most = service_reserve_max(s, granted - c->credit, &hope);
    buf_add(&a->body, a->request->body.data, a->request->body.len);
    buf_varint(&a->body, FIELD_RESERVE_MAX << 3);
    buf_varint(&a->body, most);
    buf_varint(&a->body, FIELD_RESERVE_HOPE << 3);
    buf_varint(&a->body, hope);
    a->proposal.body = buf_bytes(&a->body);
}

static void command_done(struct proposal *p)
{
    struct asked *a = container_of(p, struct asked, proposal);
    struct client *c = service_client(a->service, a->session);
    if (c != NULL && p->rc == 0 && a->seq > c->applied) {
        c->applied = a->seq;
    }
    /* A number that was applied before leaves no hole, whatever is said about its repeat: those behind it, in flight
     * now, will be applied, and must not be taken back. */
    if (c != NULL && p->rc != 0 && a->seq > c->applied && c->proposed >= a->seq) {
        c->proposed = a->seq - 1;
    }
    if (p->rc == ERR_MALFORMED) {
        request_malformed(a->request);
    } else {
        service_answer_effects(a->request, p);
    }
    asked_free(a);
}

static void handle_command(struct request *r, void *ctx)
{
    struct meta_service *s = ctx;
    if (!service_leads(s, r)) {
        return;
    }
    struct command_head head;
    if (!command_peek(r->body, &head)) {
        request_malformed(r);
        return;
    }
    struct client *c = service_client(s, head.session);
    if (c == NULL) {
        request_reply(r, s->sessions_known ? ERR_SESSION_ENDED : ERR_BUSY, BYTES(NULL, 0), NULL);
        return;
    }
    c->connection = r->peer;
    const bool reserves = has_field(head.ops, FIELD_OP, FIELD_FALLOCATE);
    if (head.seq > c->proposed + 1 || (reserves && (s->tables == NULL || !space_known(s)))) {
        request_reply(r, ERR_BUSY, BYTES(NULL, 0), NULL);
        return;
    }
    c->proposed = head.seq > c->proposed ? head.seq : c->proposed;
    struct asked *a = asked_new(s, r, ENTRY_COMMAND, command_done);
    a->session = head.session;
    a->seq = head.seq;
    a->proposal.body = r->body; /* stays until the request is answered */
    if (reserves) {
        add_reserve_max(s, c, a);
    }
    machine_propose(s->machine, &a->proposal);
}

void service_session_init(struct meta_service *s)
{
    struct server *server = s->options.server;
    s->sessions_query = (struct machine_read){
        .method = FSM_QUERY_SESSIONS, .query = true, .on_done = sessions_done};
    buf_init(&s->sessions_query.reply);
    server_handle(server, METHOD_SESSION_OPEN, handle_open, s);
    server_handle(server, METHOD_SESSION_RENEW, handle_renew, s);
    server_handle(server, METHOD_SESSION_CLOSE, handle_close, s);
    server_handle(server, METHOD_COMMAND, handle_command, s);
}
