// Hand-written assembly: every function of libcrypto while openssl uses its ciphers and digests.
//@ compile: gcc -O2
//@ needs: command openssl
//@ traps: no, they take too long
//@ count: -f -m libcrypto* * --
//@ expect-count: EVP_DigestUpdate >=10
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argc;
    const char *script =
        "for d in sha1 sha256 sha512 md5 sha3-256 blake2b512; do openssl dgst -$d < \"$0\"; done; "
        "for c in aes-128-cbc aes-256-ctr chacha20 camellia-128-cbc; do "
        "openssl enc -$c -K 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f "
        "-iv 00010203040506070809101112131415 < \"$0\" 2>/dev/null | openssl dgst -sha256; done";
    execl("/bin/sh", "sh", "-c", script, argv[0], (char *)NULL);
    return 9;
}
