/* cc -std=c11 -Wall test.c judge.c luthier/luthier.c -o target/test && target/test */
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "luthier/luthier.h"

static luthier_text text(const char *words) { return (luthier_text){words, strlen(words)}; }

static luthier_verdict judged(const char *config, const char *words, float *scores) {
    luthier_row row = {text(words), NULL};
    assert(open_filter(text(config)) == NULL);
    return judge(&row, scores);
}

int main(void) {
    float scores[1] = {0};
    assert(judged("{}", "see https://a and http://b", scores).kind == LUTHIER_KEEP);
    assert(scores[0] == 2);
    assert(judged("{\"max\": 1}", "see https://a and http://b", scores).kind == LUTHIER_DROP);
    assert(judged("{}", "none", scores).kind == LUTHIER_KEEP);
    return 0;
}
