// The program of the tutorial in docs/live-patching.md.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc < 1) {
        printf("Thank you marrrio, *smooch*!\n");
        return (EXIT_SUCCESS);
    }
    printf("Sorry but our princess is in another castle\n");
    return (EXIT_FAILURE);
}
