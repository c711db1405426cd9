/* The boundary of `luthier:filter@0.2.0` in the canonical ABI of the component model: every list is a pointer and a
 * length, every result lies in memory at fixed offsets. Nothing here needs editing. */
#include "luthier.h"

#include <stdlib.h>
#include <string.h>

#define FILTER "luthier:filter/filter@0.2.0"
#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))

typedef struct {
    const void *data;
    size_t length;
} list;

typedef struct {
    const uint32_t *offsets;
    size_t offsets_length;
    const char *data;
    size_t data_length;
} column;

IMPORT("luthier:filter/host@0.2.0", "log") extern void host_log(int32_t level, const char *data, size_t length);
IMPORT("luthier:filter/host@0.2.0", "panic")
extern void host_panic(int32_t has_row, uint32_t row, const char *place, size_t place_length, const char *message,
                       size_t message_length);
IMPORT("[export]" FILTER, "[resource-new]session") extern int32_t session_new(int32_t representation);

/* The row being judged, for messages. */
static uint32_t current_row = UINT32_MAX;

static _Noreturn void give_up(const char *message) {
    host_panic(current_row != UINT32_MAX, current_row, "luthier.c", 9, message, strlen(message));
    __builtin_trap();
}

static void *need(void *block) {
    if (!block) give_up("no memory left");
    return block;
}

EXPORT("cabi_realloc") void *luthier_realloc(void *block, size_t old, size_t align, size_t size) {
    (void)old;
    /* An empty list has an aligned pointer that nobody follows. */
    if (size == 0) return (void *)align;
    return need(realloc(block, size));
}

/* Frees a list that the host handed over. */
static void release(const void *list, size_t length) {
    if (length) free((void *)list);
}

static list text_of(const char *text) { return (list){text ? text : "", text ? strlen(text) : 0}; }

static size_t count(const char *const *names) {
    size_t found = 0;
    while (names[found]) found++;
    return found;
}

static list texts_of(const char *const *names, size_t found) {
    list *texts = need(calloc(found + 1, sizeof(list)));
    for (size_t i = 0; i < found; i++) texts[i] = text_of(names[i]);
    return (list){texts, found};
}

struct score {
    list name;
    uint8_t kind;
};

static struct {
    list name, version, about, text, reads, scores, reasons;
    uint8_t edits_text;
    list config_schema;
} manifest;

EXPORT(FILTER "#describe") void *luthier_describe(void) {
    size_t scores = count(about.scores);
    struct score *columns = need(calloc(scores + 1, sizeof(struct score)));
    for (size_t i = 0; i < scores; i++) columns[i].name = text_of(about.scores[i]);
    manifest.name = text_of(about.name);
    manifest.version = text_of(about.version);
    manifest.about = text_of(about.about);
    manifest.text = text_of(about.text);
    manifest.reads = texts_of(about.reads, count(about.reads));
    manifest.scores = (list){columns, scores};
    manifest.reasons = texts_of(about.reasons, count(about.reasons));
    manifest.edits_text = about.edits;
    manifest.config_schema = text_of(about.config_schema ? about.config_schema : "{\"type\":\"object\"}");
    return &manifest;
}

static struct {
    uint8_t is_error;
    union {
        int32_t session;
        struct {
            uint8_t kind;
            list issue;
        } error;
    } of;
} opened;

EXPORT(FILTER "#[static]session.open") void *luthier_open(const char *config, size_t length) {
    enum { OTHER = 1 };
    const char *wrong = open_filter((luthier_text){config, length});
    opened.is_error = wrong != NULL;
    if (wrong) {
        opened.of.error.kind = OTHER;
        opened.of.error.issue = text_of(wrong);
    } else {
        opened.of.session = session_new(1);
    }
    return &opened;
}

EXPORT(FILTER "#[dtor]session") void luthier_close(int32_t session) { (void)session; }

struct refusal {
    uint32_t row;
    list why;
};

static struct {
    uint8_t is_error;
    list drop, scores;
    uint8_t has_edits;
    list edit_rows, edit_offsets, edit_data;
    list refusals;
} judged;

/* A buffer that grows. */
typedef struct {
    char *data;
    size_t length, room;
} buffer;

static void append(buffer *to, const void *data, size_t length) {
    if (to->length + length > to->room) {
        to->room = 2 * (to->length + length) + 64;
        to->data = need(realloc(to->data, to->room));
    }
    if (length) memcpy(to->data + to->length, data, length);
    to->length += length;
}

EXPORT(FILTER "#[method]session.process")
void *luthier_process(int32_t session, uint32_t rows, const uint32_t *offsets, size_t offsets_length, const char *data,
                      size_t data_length, const column *reads, size_t reads_length) {
    (void)session;
    size_t score_count = count(about.scores), reason_count = count(about.reasons);
    uint8_t *drop = need(calloc(rows + 1, 1));
    float *scores = need(calloc(rows * score_count + 1, sizeof(float)));
    float row_scores[16];
    luthier_text columns[16];
    buffer edit_rows = {0}, edit_offsets = {0}, edit_data = {0}, refusals = {0};
    append(&edit_offsets, &(uint32_t){0}, sizeof(uint32_t));
    for (uint32_t i = 0; i < rows; i++) {
        current_row = i;
        for (size_t c = 0; c < reads_length; c++) {
            uint32_t from = reads[c].offsets[i];
            columns[c] = (luthier_text){reads[c].data + from, reads[c].offsets[i + 1] - from};
        }
        memset(row_scores, 0, sizeof row_scores);
        luthier_row row = {{data + offsets[i], offsets[i + 1] - offsets[i]}, columns};
        luthier_verdict verdict = judge(&row, row_scores);
        for (size_t s = 0; s < score_count; s++) scores[s * rows + i] = row_scores[s];
        if (verdict.kind == LUTHIER_DROP) {
            if (verdict.reason >= reason_count) verdict = luthier_refuse("dropped for a reason that is not in `reasons`");
            else drop[i] = (uint8_t)(1 + verdict.reason);
        }
        if (verdict.kind == LUTHIER_EDIT) {
            append(&edit_rows, &i, sizeof i);
            append(&edit_data, verdict.text.data, verdict.text.length);
            append(&edit_offsets, &(uint32_t){(uint32_t)edit_data.length}, sizeof(uint32_t));
        } else if (verdict.kind == LUTHIER_REFUSE) {
            char *why = need(malloc(verdict.text.length + 1));
            memcpy(why, verdict.text.data, verdict.text.length);
            append(&refusals, &(struct refusal){i, {why, verdict.text.length}}, sizeof(struct refusal));
        }
    }
    current_row = UINT32_MAX;
    release(offsets, offsets_length);
    release(data, data_length);
    for (size_t c = 0; c < reads_length; c++) {
        release(reads[c].offsets, reads[c].offsets_length);
        release(reads[c].data, reads[c].data_length);
    }
    release(reads, reads_length);
    judged.drop = (list){drop, rows};
    judged.scores = (list){scores, rows * score_count};
    judged.has_edits = edit_rows.length > 0;
    judged.edit_rows = (list){edit_rows.data, edit_rows.length / sizeof(uint32_t)};
    judged.edit_offsets = (list){edit_offsets.data, edit_offsets.length / sizeof(uint32_t)};
    judged.edit_data = (list){edit_data.data, edit_data.length};
    judged.refusals = (list){refusals.data, refusals.length / sizeof(struct refusal)};
    return &judged;
}

/* Called when the host has read the verdicts. */
EXPORT("cabi_post_" FILTER "#[method]session.process") void luthier_processed(void *result) {
    (void)result;
    const struct refusal *refusals = judged.refusals.data;
    for (size_t i = 0; i < judged.refusals.length; i++) free((void *)refusals[i].why.data);
    const void *made[] = {judged.drop.data,         judged.scores.data,    judged.edit_rows.data,
                          judged.edit_offsets.data, judged.edit_data.data, judged.refusals.data};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) free((void *)made[i]);
}

void luthier_log(const char *message) {
    enum { INFO = 2 };
    host_log(INFO, message, strlen(message));
}
