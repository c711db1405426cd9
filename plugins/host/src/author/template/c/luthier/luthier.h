/* What a Luthier filter written in C is made of: `about`, `open_filter` and `judge`, all in judge.c.
 *
 * One thread calls them. `judge` must say the same about equal rows, whatever came before: there is no clock, file,
 * network or random number to ask, and a call for one is an error that names the row. */
#ifndef LUTHIER_H
#define LUTHIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* UTF-8 that does not end in a zero byte. */
typedef struct {
    const char *data;
    size_t length;
} luthier_text;

typedef struct {
    luthier_text text;
    /* The columns named in `about.reads`, in that order; empty where the row has none. */
    const luthier_text *columns;
} luthier_row;

/* What the plugin says about itself. Lists end at their first NULL. */
typedef struct {
    const char *name;
    const char *version;
    const char *about;
    /* The column to judge when the pipeline does not say; NULL for the text of the dataset. */
    const char *text;
    const char *reads[17];
    const char *scores[17];
    const char *reasons[33];
    bool edits;
    /* JSON Schema of the configuration: Luthier checks every pipeline against it before the first row. */
    const char *config_schema;
} luthier_about;

typedef struct {
    enum { LUTHIER_KEEP, LUTHIER_DROP, LUTHIER_EDIT, LUTHIER_REFUSE } kind;
    /* Of a drop: an index into `about.reasons`. */
    unsigned reason;
    /* Of an edit the new text, of a refusal why; copied before the next row. */
    luthier_text text;
} luthier_verdict;

static inline luthier_verdict luthier_keep(void) { return (luthier_verdict){LUTHIER_KEEP, 0, {0, 0}}; }
static inline luthier_verdict luthier_drop(unsigned reason) { return (luthier_verdict){LUTHIER_DROP, reason, {0, 0}}; }
static inline luthier_verdict luthier_edit(luthier_text text) { return (luthier_verdict){LUTHIER_EDIT, 0, text}; }
/* The row cannot be judged: an error that names it, with this message. */
luthier_verdict luthier_refuse(const char *why);

/* Values of the configuration, or the default where it has none. */
double luthier_config_number(luthier_text config, const char *key, double otherwise);
bool luthier_config_flag(luthier_text config, const char *key, bool otherwise);
/* The text between the quotes, escapes as they are written. */
luthier_text luthier_config_text(luthier_text config, const char *key, const char *otherwise);

/* A line for the log of the stage. */
void luthier_log(const char *message);

/* What judge.c defines. */
extern const luthier_about about;
/* Takes in the configuration, a JSON object; returns NULL, or what is wrong with it. */
const char *open_filter(luthier_text config);
/* `scores[i]` is the value of `about.scores[i]` and starts at 0. */
luthier_verdict judge(const luthier_row *row, float *scores);

#endif
