/* A worker in C: make -C examples/workers/c; wsraw run --workers './examples/workers/c/worker:2'
 * The handlers stand in the middle; what is around them speaks docs/worker-protocol.md. */
#include <msgpack.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h> /* errno.h and stdio.h, too */

enum { SEND_AFTER = 1, LEAVE_WITHIN = 4000, END_WITHIN = 7, BUCKETS = 1 << 16 }; /* ms, ms, s */
typedef msgpack_object object;
typedef struct connection { struct connection *next; uint64_t id; int64_t count; } connection;
/* The count is its state, which moves along with the connection; -1: we have opened it. */
static connection *table[BUCKETS]; /* what we hold */
static size_t held, records; /* how much that is; records of the next batch */
static msgpack_sbuffer body; static msgpack_packer out = {&body, msgpack_sbuffer_write};
static void *zmq, *watch; static char *token;
static uint64_t session, during, id, last_id; /* whose event it is; ids to open with */
static int64_t oldest, leave_at = INT64_MAX;
static volatile sig_atomic_t caught;
static void catch(int number) { /* if the gateway is gone too, a send waits for ever (rule 19) */
    caught = number, alarm(END_WITHIN);
}
static int64_t now(void) { return zmq_stopwatch_intermediate(watch) / 1000; }
static connection **find(uint64_t id) {
    connection **at = &table[id % BUCKETS];
    for (; *at && (*at)->id != id; at = &(*at)->next) {}
    return at;
}
static connection *get(uint64_t id) {
    connection **at = find(id);
    if (!*at && !(*at = calloc(++held > 0, sizeof **at))) abort();
    return (*at)->id = id, *at;
}
static void forget(uint64_t id) {
    connection **at = find(id), *con = *at;
    if (con) *at = con->next, held--, free(con);
}
static void text(const char *s) { msgpack_pack_str_with_body(&out, s, s ? strlen(s) : 0); }
static void number(uint64_t n) { msgpack_pack_uint64(&out, n); }
static void record(const char *tag, int fields) {
    if (!records++) oldest = now();
    msgpack_pack_array(&out, fields + 1), text(tag);
}
static void flush(void) { /* commands go with their acks, or not at all (rule 1) */
    msgpack_sbuffer batch = {0}; msgpack_packer head = {&batch, msgpack_sbuffer_write};
    msgpack_pack_array(&head, records + 1), msgpack_pack_uint64(&head, session);
    msgpack_sbuffer_write(&batch, body.data, body.size);
    while (records && zmq_send(zmq, batch.data, batch.size, 0) < 0 && errno == EINTR) {}
    msgpack_sbuffer_destroy(&batch), msgpack_sbuffer_clear(&body), records = 0;
}
static void say_hello(void) { /* to one that does not know us: what we had is over (rule 2) */
    session = records = 0, msgpack_sbuffer_clear(&body);
    record("hello", 8), number(1), text(getenv("WSRAW_POOL")), text(getenv("WSRAW_INSTANCE"));
    text("c/11"), text(token), number(1000), number(1), msgpack_pack_array(&out, held);
    for (int i = 0; i < BUCKETS; i++)
        for (connection *con = table[i]; con; con = con->next) number(con->id);
    flush();
}
static void keep(connection *con) {
    char state[9] = {'\xd3'}; /* an int64 in MessagePack */
    for (int i = 1; i < 9; i++) state[i] = (char)(con->count >> (64 - 8 * i));
    record("state", 2), number(con->id), msgpack_pack_bin_with_body(&out, state, 9);
}
static uint64_t open_websocket(const char *target, size_t size) {
    record("open", 7), number(id), msgpack_pack_str_with_body(&out, target, size);
    text("websocket"), text("/"), text(""), text(""), msgpack_pack_map(&out, 1);
    text("during"), number(during), get(id)->count = -1, keep(get(id));
    if (id == last_id) record("query", 2), number(0), text("ids"); /* for the next range */
    return id++;
}
static void reply(connection *con, const char *data, size_t size, bool is_text, bool final) {
    record("send", 4), number(con->id), msgpack_pack_bin_with_body(&out, data, size);
    text(is_text ? "text" : "binary"), final ? msgpack_pack_true(&out) : msgpack_pack_false(&out);
}
/* The handlers: what all the examples do. */
static void on_connect(connection *con) { if (con->count < 0) reply(con, "hi", 2, true, true); }
static void on_message(connection *con, const char *data, size_t size, bool is_text, bool final) {
    if (con->count < 0) return; /* two that answer each other never end */
    char *copy = memcpy(calloc(1, size + 40), data, size), *answer = copy;
    con->count++, keep(con);
    if (!strncmp(copy, "upper ", 6)) {
        answer += 6, size -= 6;
        for (char *c = answer; c < answer + size; c++) *c -= *c >= 'a' && *c <= 'z' ? 'a' - 'A' : 0;
    } else if (size == 5 && !strcmp(copy, "count")) size = sprintf(copy, "%ld", (long)con->count);
    else if (!strncmp(copy, "slow ", 5)) usleep(1000 * atoi(copy + 5));
    else if (!strncmp(copy, "open ", 5))
        size = sprintf(copy, "opened %lu", (unsigned long)open_websocket(data + 5, size - 5));
    reply(con, answer, size, is_text, final), free(copy);
}
static bool is(object o, const char *word) {
    return o.via.str.size == strlen(word) && !memcmp(o.via.str.ptr, word, o.via.str.size);
}
static int64_t to_count(msgpack_object_bin state) {
    msgpack_unpacked value = {0}; /* so it is without a state */
    int64_t count = (msgpack_unpack_next(&value, state.ptr, state.size, NULL), value.data.via.i64);
    return msgpack_unpacked_destroy(&value), count;
}
static void take_ids(object *range) { id = range[0].via.u64, last_id = range[1].via.u64; }
static void take_event(object *f, size_t size) {
    connection *con = get(during = f[2].via.u64);
    bool final = size < 6 || f[5].via.boolean;
    if (records && now() - oldest > SEND_AFTER) flush(); /* else we look stuck (rule 3) */
    if (is(f[0], "on_connect")) on_connect(con);
    if (is(f[0], "on_message"))
        on_message(con, f[3].via.bin.ptr, f[3].via.bin.size, is(f[4], "text"), final);
    if (is(f[0], "on_close")) forget(con->id);
    record("ack", 2), number(f[1].via.u64), number(f[1].via.u64);
}
static void receive(const char *data, size_t size) {
    msgpack_unpacked batch = {0};
    if (msgpack_unpack_next(&batch, data, size, NULL) != MSGPACK_UNPACK_SUCCESS) abort();
    object *all = batch.data.via.array.ptr;
    for (uint32_t i = 1; i < batch.data.via.array.size; i++) {
        object *f = all[i].via.array.ptr;
        if (is(f[0], "who")) say_hello();
        else if (is(f[0], "welcome")) session = f[2].via.u64, take_ids(f + 4);
        else if (is(f[0], "refused")) {
            fprintf(stderr, "error: refused: %.*s\n", (int)f[3].via.str.size, f[3].via.str.ptr);
            if (!f[1].via.u64) exit(4); /* batch 0: we are shut out; trying again is no use */
        } else if (all->via.u64 != session) continue;
        else if (is(f[0], "attach")) get(f[1].via.u64)->count = to_count(f[3].via.bin);
        else if (is(f[0], "detach")) forget(f[1].via.u64);
        else if (is(f[0], "answer")) take_ids(f[2].via.array.ptr);
        else if (is(f[0], "drain")) leave_at = 0;
        else if (!strncmp(f[0].via.str.ptr, "on_", 3))  take_event(f, all[i].via.array.size);
    }
    msgpack_unpacked_destroy(&batch), flush();
}
int main(void) {
    void *context = zmq_ctx_new(), *endpoint = getenv("WSRAW_ENDPOINT"), *value;
    char *curve[] = {"WSRAW_CURVE_PUBLICKEY", "WSRAW_CURVE_SECRETKEY", "WSRAW_CURVE_SERVERKEY"};
    int options[][2] = {{ZMQ_IMMEDIATE, 1}, {ZMQ_PROBE_ROUTER, 1}, {ZMQ_LINGER, 2000},
        {ZMQ_RCVHWM, 100}, {ZMQ_SNDHWM, 100}, {ZMQ_RCVTIMEO, 1000}, /* ms */
        {ZMQ_HEARTBEAT_IVL, 2000}, {ZMQ_HEARTBEAT_TIMEOUT, 6000}, {ZMQ_CONNECT_TIMEOUT, 5000}};
    zmq = zmq_socket(context, ZMQ_DEALER), watch = zmq_stopwatch_start();
    for (int i = 0; i < (endpoint && !strncmp(endpoint, "tcp:", 4) ? 9 : 6); i++) /* 3 for tcp */
        zmq_setsockopt(zmq, options[i][0], &options[i][1], sizeof(int));
    zmq_setsockopt(zmq, ZMQ_MAXMSGSIZE, &(int64_t){64 << 20}, sizeof(int64_t));
    for (int i = 0; i < 3; i++) /* for a gateway on another machine */
        if ((value = getenv(curve[i]))) zmq_setsockopt(zmq, ZMQ_CURVE_PUBLICKEY + i, value, 41);
    token = strdup(getenv("WSRAW_TOKEN") ?: ""), unsetenv("WSRAW_TOKEN"), unsetenv(curve[1]); /* ours */
    if (zmq_connect(zmq, endpoint ? endpoint : "")) return perror("WSRAW_ENDPOINT"), 2;
    signal(SIGINT, catch), signal(SIGTERM, catch);
    for (zmq_msg_t in; now() < leave_at; zmq_msg_close(&in)) {
        if (caught) leave_at = caught == SIGTERM && session ? now() + LEAVE_WITHIN : 0, caught = 0;
        zmq_msg_init(&in); /* what is empty is a probe */
        int size = zmq_msg_recv(&in, zmq, 0);
        if (size > 0) receive(zmq_msg_data(&in), size);
        /* Silence: our probe may wait in libzmq until something follows it. */
        else if (size < 0 && errno == EAGAIN) zmq_send(zmq, "", 0, ZMQ_DONTWAIT);
    }
    if (session) record("bye", 0), flush();
    return zmq_close(zmq) + zmq_ctx_term(context);
}
