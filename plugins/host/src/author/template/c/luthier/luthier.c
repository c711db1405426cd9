/* What judge.c may call that needs no host: compiled into native tests as well. */
#include "luthier.h"

#include <stdlib.h>
#include <string.h>

luthier_verdict luthier_refuse(const char *why) {
    return (luthier_verdict){LUTHIER_REFUSE, 0, {why, strlen(why)}};
}

/* The value of a key of the outermost object, NULL if there is none. The host hands over valid JSON. */
static const char *value_of(luthier_text config, const char *key, const char **end) {
    size_t length = strlen(key), depth = 0;
    bool is_key = false;
    *end = config.data + config.length;
    for (const char *at = config.data; at < *end; at++) {
        if (*at == '"') {
            const char *from = ++at;
            while (at < *end && *at != '"') at += *at == '\\' ? 2 : 1;
            if (is_key && depth == 1 && (size_t)(at - from) == length && memcmp(from, key, length) == 0) {
                do at++;
                while (at < *end && (*at == ' ' || *at == ':'));
                return at;
            }
            is_key = false;
        } else if (*at == '{' || *at == '[') {
            is_key = ++depth == 1;
        } else if (*at == '}' || *at == ']') {
            depth--;
        } else if (*at == ',') {
            is_key = true;
        }
    }
    return NULL;
}

double luthier_config_number(luthier_text config, const char *key, double otherwise) {
    const char *end, *value = value_of(config, key, &end);
    char digits[64] = {0};
    if (!value) return otherwise;
    for (size_t i = 0; i < sizeof digits - 1 && value + i < end && strchr("+-.eE0123456789", value[i]); i++)
        digits[i] = value[i];
    return digits[0] ? strtod(digits, NULL) : otherwise;
}

bool luthier_config_flag(luthier_text config, const char *key, bool otherwise) {
    const char *end, *value = value_of(config, key, &end);
    if (!value || (*value != 't' && *value != 'f')) return otherwise;
    return *value == 't';
}

luthier_text luthier_config_text(luthier_text config, const char *key, const char *otherwise) {
    const char *end, *value = value_of(config, key, &end);
    if (!value || *value != '"') return (luthier_text){otherwise, strlen(otherwise)};
    const char *from = ++value;
    while (value < end && *value != '"') value += *value == '\\' ? 2 : 1;
    return (luthier_text){from, (size_t)(value - from)};
}
