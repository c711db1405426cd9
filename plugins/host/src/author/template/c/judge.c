#include <string.h>

#include "luthier/luthier.h"

const luthier_about about = {
    .name = "@NAME@",
    .version = "0.1.0",
    .about = "Drops texts with many links.",
    .scores = {"links"},
    .reasons = {"too-many-links"},
    .config_schema = "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {"
                     "\"max\": {\"type\": \"integer\", \"minimum\": 0, \"default\": 2,"
                     " \"description\": \"Most links that a text may have.\"}}}",
};

static double most;

const char *open_filter(luthier_text config) {
    most = luthier_config_number(config, "max", 2);
    return NULL;
}

static size_t occurrences(luthier_text text, const char *needle) {
    size_t length = strlen(needle), found = 0;
    for (size_t at = 0; at + length <= text.length; at++) {
        const char *next = memchr(text.data + at, needle[0], text.length - length + 1 - at);
        if (!next) break;
        at = (size_t)(next - text.data);
        found += memcmp(next, needle, length) == 0;
    }
    return found;
}

luthier_verdict judge(const luthier_row *row, float *scores) {
    size_t links = occurrences(row->text, "http://") + occurrences(row->text, "https://");
    scores[0] = (float)links;
    return (double)links > most ? luthier_drop(0) : luthier_keep();
}
