"""From the bytes of any recording to mono samples at 16 kHz, and from samples to clips of speech.

In the service:     decode     one child process per recording, with limits
                    spool      the samples, growing on disk
                    speech     samples -> clips; on silero, voice activity
Between the two:    job        how a recording is handed over
In the child:       confined   the fork server, and what a child may not do
                    recording  what a file is, and whether it may be decoded
                    packets    its packets, and what of them is lost
                    clock      where frames belong in time
                    render     frames -> mono at 16 kHz
"""
