import os, subprocess, asyncio, time
from pathlib import Path
from tests.chaos.fleet_site import *
import pytest
async def test_x(tmp_path):
    store = tmp_path/"nats"/"store"; store.mkdir(parents=True)
    subprocess.run(["mount","-t","tmpfs","-o","size=24M","none",str(store)],check=True)
    try:
        async with open_site(tmp_path, audit_max_size=2**21, publish_deadline=timedelta(seconds=2)) as site:
            world=World(HOST,{"a":16})
            host=await site.host(world)
            await site.report()
            await until(lambda: site.records(Step.HEALED))
            print("healed", world.done)
            filler = store/"filler"
            with filler.open("wb") as f:
                try:
                    while True: f.write(b"x"*65536); f.flush()
                except OSError as e: print(e)
            world.water["a"]=16
            t=time.monotonic()
            for i in range(4):
                try:
                    await site.report(); print("reported")
                except Exception as e: print("report:", repr(e)[:200])
            await asyncio.sleep(3)
            print("done", world.done, time.monotonic()-t)
            print((tmp_path/"nats"/"log").read_text()[-1500:])
            filler.unlink()
            for i in range(10):
                try:
                    await site.report(); print("reported", time.monotonic()-t); break
                except Exception as e: print("report:", repr(e)[:200])
            for i in range(20):
                await asyncio.sleep(1)
                if len(world.done)==4: break
            print("without restart", world.done)
            print([ (a.state.value,a.title,a.next) for a in await site.alerts()])
            if len(world.done)<4:
                print((tmp_path/"nats"/"log").read_text()[-1200:])
                await site.server.stop(); await site.server.start()
                for i in range(30):
                    await asyncio.sleep(1)
                    if len(world.done)==4: break
                print("after restart", i, world.done)
            for x in [ (a.state.value,a.title,a.next) for a in await site.alerts()]: print(x)
            print((await site.verified()).problems)
    finally:
        subprocess.run(["umount","--recursive",str(store)],check=True)
