/* SPDX-License-Identifier: Apache-2.0 */
/* A Slurm plugin that takes the options of NVIDIA's pyxis, runs the task without a container, and passes the options to
 * it in the variables FAKEPYXIS_IMAGE, FAKEPYXIS_MOUNTS, FAKEPYXIS_WORKDIR and FAKEPYXIS_ENV. Like pyxis, it fails if a
 * mount does not exist.
 *
 *   gcc -shared -fPIC -o fakepyxis.so fakepyxis.c        (Debian: gcc libslurm-dev)
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(fakepyxis, 1)

enum { IMAGE, MOUNTS, WORKDIR, ENV, NUM_OPTIONS };
static const char *options[NUM_OPTIONS] = {"container-image", "container-mounts", "container-workdir",
                                           "container-env"};
static const char *variables[NUM_OPTIONS] = {"FAKEPYXIS_IMAGE", "FAKEPYXIS_MOUNTS", "FAKEPYXIS_WORKDIR",
                                             "FAKEPYXIS_ENV"};
static char *values[NUM_OPTIONS];

static int keep(int option, const char *value, int remote)
{
    (void)remote;
    free(values[option]);
    values[option] = strdup(value);
    return 0;
}

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int i = 0; i < NUM_OPTIONS; i++) {
        struct spank_option option = {(char *)options[i], "VALUE", "[fakepyxis] as pyxis has it", 1, i, keep};
        if (spank_option_register(spank, &option) != ESPANK_SUCCESS)
            return -1;
    }
    return 0;
}

/* Comma-separated words, each source:target. */
static int mounts_exist(const char *mounts)
{
    char *words = strdup(mounts), *rest = words, *word;
    while ((word = strsep(&rest, ","))) {
        word[strcspn(word, ":")] = '\0';
        if (access(word, F_OK)) {
            slurm_error("fakepyxis: no such mount: %s", word);
            free(words);
            return 0;
        }
    }
    free(words);
    return 1;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int i = 0; i < NUM_OPTIONS; i++)
        if (values[i])
            spank_setenv(spank, variables[i], values[i], 1);
    if (values[MOUNTS] && !mounts_exist(values[MOUNTS]))
        return -1;
    if (values[WORKDIR] && chdir(values[WORKDIR])) {
        slurm_error("fakepyxis: no such directory: %s", values[WORKDIR]);
        return -1;
    }
    return 0;
}
